//! Kubeconfig files, read by way of JSON: a second reader of all their types, for YAML, would be half a megabyte of program.

use std::path::Path;

use kube::Error;
use kube::config::Kubeconfig;

/// Reads a kubeconfig. Files that it names stand beside it unless their paths are absolute.
///
/// Errors: the file cannot be read, or is none.
pub fn read(path: &Path) -> Result<Kubeconfig, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::Service(Box::new(error)))?;
    let tree: serde_json::Value =
        serde_saphyr::from_str(&text).map_err(|error| Error::Service(Box::new(error)))?;
    let json = serde_json::to_vec(&tree).map_err(Error::SerdeError)?;
    let mut config: Kubeconfig = serde_json::from_slice(&json).map_err(Error::SerdeError)?;
    let dir = path.parent().unwrap_or(Path::new(""));
    config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()).for_each(|cluster| {
        resolve(dir, &mut cluster.certificate_authority);
    });
    for user in config.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        resolve(dir, &mut user.client_certificate);
        resolve(dir, &mut user.client_key);
        resolve(dir, &mut user.token_file);
        // A bare word is looked for in PATH.
        if let Some(exec) = user.exec.as_mut().filter(|exec| exec.command.iter().any(|c| c.contains('/'))) {
            resolve(dir, &mut exec.command);
        }
    }
    Ok(config)
}

fn resolve(dir: &Path, file: &mut Option<String>) {
    if let Some(file) = file {
        *file = dir.join(&*file).to_string_lossy().into_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stand_beside_it() {
        let dir = std::env::temp_dir().join(format!("corten-kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("config");
        let text = "
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority: ca.crt}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {client-certificate: /abs/u.crt, client-key: keys/u.key, token: '123',
  exec: {apiVersion: client.authentication.k8s.io/v1, command: aws}}}]
";
        std::fs::write(&file, text).unwrap();
        let config = read(&file).unwrap();
        let beside = |name: &str| Some(dir.join(name).to_string_lossy().into_owned());
        assert_eq!(config.current_context.as_deref(), Some("c"));
        assert_eq!(config.clusters[0].cluster.as_ref().unwrap().certificate_authority, beside("ca.crt"));
        let user = config.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(user.client_certificate.as_deref(), Some("/abs/u.crt"));
        assert_eq!(user.client_key, beside("keys/u.key"));
        assert_eq!(user.exec.as_ref().unwrap().command.as_deref(), Some("aws"));
        std::fs::write(&file, "a: [").unwrap();
        assert!(read(&file).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(read(&file).is_err());
    }
}
