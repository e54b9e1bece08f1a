//! An API server and its store, alone and fresh: Corten's, or upstream's kube-apiserver with etcd, both with their data on disk and every
//! acknowledged write synced, as both do when nobody tells them otherwise.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rcgen::KeyPair;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    args::Target,
    http::Connection,
    pki::Pki,
    process::paths_in,
    up::{TRY_AGAIN, log_tail, try_readyz},
};

/// A server that is not ready after so long will not be.
const READY_WAIT: Duration = Duration::from_secs(120);

/// Where the programs are.
#[derive(Clone, Debug)]
pub enum Programs {
    /// The program `corten`.
    Corten(PathBuf),
    /// A directory with `etcd` and `kube-apiserver`.
    Upstream(PathBuf),
}

/// Running processes; they end, and their data goes, when this is dropped.
pub struct Server {
    // Before the directory: fields are dropped in this order.
    children: Vec<Child>,
    dir: TempDir,
    kubeconfig: PathBuf,
    /// From starting the first process to /readyz saying ok.
    pub started_in: Duration,
}

impl Server {
    /// Starts on an empty disk and waits for /readyz.
    pub async fn start(programs: &Programs) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("corten-bench-").tempdir()?;
        let kubeconfig = dir.path().join("kubeconfig");
        let mut server = Self { children: Vec::new(), dir, kubeconfig, started_in: Duration::ZERO };
        let ready = async {
            match programs {
                Programs::Corten(program) => server.start_corten(program).await,
                Programs::Upstream(dir) => server.start_upstream(dir).await,
            }
        };
        match tokio::time::timeout(READY_WAIT, ready).await {
            Ok(Ok(())) => Ok(server),
            Ok(Err(error)) => Err(error.context(server.logs())),
            Err(_) => bail!("not ready within {} s\n{}", READY_WAIT.as_secs(), server.logs()),
        }
    }

    /// How to reach it, and which processes pay for it.
    pub fn target(&self, namespace: &str) -> Target {
        Target {
            kubeconfig: Some(self.kubeconfig.clone()),
            server_pids: self.pids(),
            namespace: Some(namespace.to_owned()),
            bare: true,
            ..Target::default()
        }
    }

    /// Its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().filter_map(Child::id).collect()
    }

    /// Ends it; its memory of this run should not weigh on the next.
    pub async fn stop(mut self) -> Result<()> {
        for child in &mut self.children {
            child.kill().await?;
        }
        Ok(())
    }

    async fn start_corten(&mut self, program: &Path) -> Result<()> {
        let data = self.dir.path().join("data");
        self.kubeconfig = data.join("kubeconfig");
        let arguments = [
            "apiserver".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--listen=127.0.0.1:{}", free_port()?),
        ];
        let begun = Instant::now();
        self.spawn(program, &arguments)?;
        self.readyz().await?;
        self.started_in = begun.elapsed();
        Ok(())
    }

    async fn start_upstream(&mut self, programs: &Path) -> Result<()> {
        let (store, peer, api) = (free_port()?, free_port()?, free_port()?);
        let (etcd, apiserver) = (self.etcd(store, peer), self.kube_apiserver(store, api)?);
        let begun = Instant::now();
        self.spawn(&programs.join("etcd"), &etcd)?;
        // An API server that misses its store waits for seconds before it asks again.
        while TcpStream::connect(("127.0.0.1", store)).await.is_err() {
            self.still_there()?;
            tokio::time::sleep(TRY_AGAIN).await;
        }
        self.spawn(&programs.join("kube-apiserver"), &apiserver)?;
        self.readyz().await?;
        self.started_in = begun.elapsed();
        Ok(())
    }

    fn etcd(&self, store: u16, peer: u16) -> Vec<String> {
        let data = self.dir.path().join("etcd");
        vec![
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls=http://127.0.0.1:{store}"),
            format!("--advertise-client-urls=http://127.0.0.1:{store}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        ]
    }

    /// Writes its certificates and our kubeconfig.
    fn kube_apiserver(&self, store: u16, port: u16) -> Result<Vec<String>> {
        let (pki, tokens) = (Pki::new()?, KeyPair::generate()?);
        fs::write(&self.kubeconfig, pki.kubeconfig(&format!("https://127.0.0.1:{port}")))?;
        let file = |name: &str, text: String| -> Result<String> {
            let path = self.dir.path().join(name);
            fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        Ok(vec![
            format!("--etcd-servers=http://127.0.0.1:{store}"),
            "--bind-address=127.0.0.1".to_owned(),
            // Nobody reaches it through a service, and an address on loopback cannot be advertised as one.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={port}"),
            format!("--cert-dir={}", self.dir.path().display()),
            format!("--client-ca-file={}", file("ca.crt", pki.ca.pem())?),
            format!("--tls-cert-file={}", file("server.crt", pki.server.0.pem())?),
            format!("--tls-private-key-file={}", file("server.key", pki.server.1.serialize_pem())?),
            format!("--service-account-key-file={}", file("tokens.pub", tokens.public_key_pem())?),
            format!("--service-account-signing-key-file={}", file("tokens.key", tokens.serialize_pem())?),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
        ])
    }

    fn spawn(&mut self, program: &Path, arguments: &[String]) -> Result<()> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = File::create(self.dir.path().join(format!("{name}.log")))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        self.children.push(child);
        Ok(())
    }

    async fn readyz(&mut self) -> Result<Connection> {
        loop {
            self.still_there()?;
            if let Ok(connection) = try_readyz(&self.kubeconfig).await {
                return Ok(connection);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    fn still_there(&mut self) -> Result<()> {
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("the server has ended: {status}");
            }
        }
        Ok(())
    }

    fn logs(&self) -> String {
        let logs = paths_in(self.dir.path()).filter(|path| path.extension().is_some_and(|e| e == "log"));
        logs.map(|path| format!("{}:\n{}", path.display(), log_tail(&path))).collect::<Vec<_>>().join("\n")
    }
}

/// A port that is free now; nobody else takes it within the milliseconds until the server does.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_early_shows_its_log_and_leaves_nothing() {
        let programs = tempfile::tempdir().unwrap();
        let program = programs.path().join("corten");
        fs::write(&program, "#!/bin/sh\necho why not \"$@\"; exit 3\n").unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = Server::start(&Programs::Corten(program)).await.map(drop).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("why not apiserver") && text.contains("exit status: 3"), "{text}");
        let dir = text.split("--data-dir=").nth(1).unwrap().split("/data").next().unwrap();
        assert!(!Path::new(dir).exists(), "{dir}");
    }
}
