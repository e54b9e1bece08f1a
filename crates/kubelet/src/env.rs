//! A container's environment in upstream's order: services, envFrom, env; with `$(VAR)` expansion.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, FileKeySelector, Pod, Secret, Service,
};

use crate::env_file;
use crate::expand::expand;
use crate::fields::{self, Surroundings};
use crate::pod::spec;

/// The objects that an environment names, fetched beforehand; `None` is "not found".
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
    /// Texts of environment files by volume and path; an error says why one cannot be read.
    pub files: BTreeMap<(String, String), Result<String, String>>,
}

/// Names of the ConfigMaps and Secrets that a container's environment needs.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (config_maps, secrets)
}

/// Volumes and paths of the files that a container's environment takes variables from.
pub fn file_references(container: &Container) -> Vec<(String, String)> {
    let sources = container.env.iter().flatten().filter_map(|var| var.value_from.as_ref());
    let wanted = sources.filter_map(|source| source.file_key_ref.as_ref());
    wanted.map(|r| (r.volume_name.clone(), r.path.clone())).collect()
}

/// Makes the environment. Errors are messages of `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    services: BTreeMap<String, String>,
    objects: &Objects,
    around: &Surroundings,
) -> Result<Vec<(String, String)>, String> {
    let mut env = Env { pod, container, objects, around, values: Vec::new(), services };
    for from in container.env_from.iter().flatten() {
        env.take_all(from)?;
    }
    for var in container.env.iter().flatten() {
        env.take_one(var)?;
    }
    Ok(env.finish())
}

struct Env<'a> {
    pod: &'a Pod,
    container: &'a Container,
    objects: &'a Objects,
    around: &'a Surroundings,
    values: Vec<(String, String)>,
    services: BTreeMap<String, String>,
}

impl Env<'_> {
    fn set(&mut self, name: &str, value: String) {
        self.values.retain(|(known, _)| known != name);
        self.values.push((name.to_owned(), value));
    }

    fn lookup(&self, name: &str) -> Option<String> {
        let own = self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        own.or_else(|| self.services.get(name).cloned())
    }

    fn take_all(&mut self, from: &k8s_openapi::api::core::v1::EnvFromSource) -> Result<(), String> {
        let prefix = from.prefix.clone().unwrap_or_default();
        let mut pairs = Vec::new();
        if let Some(wanted) = &from.config_map_ref {
            match self.objects.config_maps.get(&wanted.name).cloned().flatten() {
                Some(map) => pairs.extend(map.data.clone().unwrap_or_default()),
                None if wanted.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", wanted.name)),
            }
        }
        if let Some(wanted) = &from.secret_ref {
            match self.objects.secrets.get(&wanted.name).cloned().flatten() {
                Some(secret) => pairs.extend(
                    secret
                        .data
                        .clone()
                        .unwrap_or_default()
                        .into_iter()
                        .map(|(key, value)| (key, text(&value.0))),
                ),
                None if wanted.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", wanted.name)),
            }
        }
        for (key, value) in pairs {
            self.set(&format!("{prefix}{key}"), value);
        }
        Ok(())
    }

    fn take_one(&mut self, var: &EnvVar) -> Result<(), String> {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, |name| self.lookup(name))),
            (_, Some(source)) => self.sourced(source)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            self.set(&var.name, value);
        }
        Ok(())
    }

    fn sourced(&self, source: &EnvVarSource) -> Result<Option<String>, String> {
        if let Some(wanted) = &source.field_ref {
            return fields::field(self.pod, &wanted.field_path, self.around).map(Some);
        }
        if let Some(wanted) = &source.resource_field_ref {
            return fields::resource(self.pod, self.container, wanted, self.around).map(Some);
        }
        let namespace = spec::namespace(self.pod);
        if let Some(wanted) = &source.config_map_key_ref {
            let optional = wanted.optional == Some(true);
            let Some(map) = self.objects.config_maps.get(&wanted.name).cloned().flatten() else {
                return absent(optional, format!("configmap \"{}\" not found", wanted.name));
            };
            let found = map.data.as_ref().and_then(|data| data.get(&wanted.key)).cloned();
            let missing =
                format!("couldn't find key {} in ConfigMap {namespace}/{}", wanted.key, wanted.name);
            return found.map_or_else(|| absent(optional, missing), |value| Ok(Some(value)));
        }
        if let Some(wanted) = &source.secret_key_ref {
            let optional = wanted.optional == Some(true);
            let Some(secret) = self.objects.secrets.get(&wanted.name).cloned().flatten() else {
                return absent(optional, format!("secret \"{}\" not found", wanted.name));
            };
            let found =
                secret.data.as_ref().and_then(|data| data.get(&wanted.key)).map(|value| text(&value.0));
            let missing = format!("couldn't find key {} in Secret {namespace}/{}", wanted.key, wanted.name);
            return found.map_or_else(|| absent(optional, missing), |value| Ok(Some(value)));
        }
        match &source.file_key_ref {
            Some(wanted) => self.file_key(wanted),
            None => Ok(Some(String::new())),
        }
    }

    fn file_key(&self, wanted: &FileKeySelector) -> Result<Option<String>, String> {
        let file = self.objects.files.get(&(wanted.volume_name.clone(), wanted.path.clone()));
        let unknown =
            || format!("cannot find the volume \"{}\" referenced by FileKeyRef", wanted.volume_name);
        let text = file.ok_or_else(unknown)?.as_deref();
        let parsed = text.map_err(ToString::to_string).and_then(|text| env_file::value(text, &wanted.key));
        let found = parsed.map_err(|why| format!("couldn't parse env file: {why}"))?;
        let missing =
            format!("environment variable key \"{}\" not found in file \"{}\"", wanted.key, wanted.path);
        found.map_or_else(|| absent(wanted.optional == Some(true), missing), |value| Ok(Some(value)))
    }

    fn finish(self) -> Vec<(String, String)> {
        let mut all = self.values;
        for (name, value) in self.services {
            if !all.iter().any(|(known, _)| *known == name) {
                all.push((name, value));
            }
        }
        all
    }
}

fn absent(optional: bool, message: String) -> Result<Option<String>, String> {
    if optional { Ok(None) } else { Err(message) }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Variables for services: all of the pod's namespace when `links`, and always `kubernetes` of `default`.
pub fn service_variables(
    services: &[Arc<Service>],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services.iter().filter(|service| has_address(service)) {
        let (Some(name), Some(of)) =
            (service.metadata.name.as_deref(), service.metadata.namespace.as_deref())
        else {
            continue;
        };
        let master = of == "default" && name == "kubernetes";
        if of == namespace && (links || master) {
            chosen.insert(name, service);
        } else if master {
            chosen.entry(name).or_insert(service);
        }
    }
    let mut variables = BTreeMap::new();
    for (name, service) in chosen {
        variables.extend(of_service(name, service));
    }
    variables
}

fn has_address(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    !ip.is_empty() && ip != "None"
}

fn of_service(name: &str, service: &Service) -> Vec<(String, String)> {
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let Some(spec) = &service.spec else { return Vec::new() };
    let ip = spec.cluster_ip.clone().unwrap_or_default();
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut out = vec![(format!("{prefix}_SERVICE_HOST"), ip.clone())];
    if let Some(first) = ports.first() {
        out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    }
    for (index, port) in ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.push((format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.port.to_string()));
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            out.push((format!("{prefix}_PORT"), url.clone()));
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        out.push((link.clone(), url));
        out.push((format!("{link}_PROTO"), protocol.to_lowercase()));
        out.push((format!("{link}_PORT"), port.port.to_string()));
        out.push((format!("{link}_ADDR"), ip.clone()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made(env: Value, from: Value, objects: &Objects) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": []}}),
        )
        .unwrap();
        let container = serde_json::from_value(json!({"name": "a", "env": env, "envFrom": from})).unwrap();
        let services = BTreeMap::from([("SVC".to_owned(), "s".to_owned())]);
        environment(&pod, &container, services, objects, &Surroundings::default())
    }

    fn objects() -> Objects {
        let map = serde_json::from_value(json!({"data": {"k": "v", "A": "from-map"}})).unwrap();
        let secret = serde_json::from_value(json!({"data": {"pw": "c2VjcmV0"}})).unwrap();
        Objects {
            config_maps: [("m".to_owned(), Some(Arc::new(map))), ("gone".to_owned(), None)].into(),
            secrets: [("s".to_owned(), Some(Arc::new(secret))), ("gone".to_owned(), None)].into(),
            files: [(("v".to_owned(), "env".to_owned()), Ok("F='file'".to_owned()))].into(),
        }
    }

    fn get(env: &[(String, String)], name: &str) -> Option<String> {
        env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn order_and_expansion() {
        let env = made(
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(SVC)-$(k)-$$(A)-$(C)"},
                {"name": "C", "value": "late"}, {"name": "E"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
            json!([{"configMapRef": {"name": "m"}}, {"prefix": "S_", "secretRef": {"name": "s"}}]),
            &objects(),
        )
        .unwrap();
        for (name, expected) in [
            ("A", "1"),
            ("B", "1-s-v-$(A)-$(C)"),
            ("k", "v"),
            ("S_pw", "secret"),
            ("E", ""),
            ("N", "p"),
            ("SVC", "s"),
        ] {
            assert_eq!(get(&env, name).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn missing_things() {
        let key = |kind: &str, name: &str, key: &str, optional: bool| json!([{"name": "X", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]);
        for (env, from, expected) in [
            (key("configMapKeyRef", "gone", "k", false), json!([]), Err("configmap \"gone\" not found")),
            (key("configMapKeyRef", "m", "x", false), json!([]), Err("couldn't find key x in ConfigMap n/m")),
            (key("secretKeyRef", "gone", "k", false), json!([]), Err("secret \"gone\" not found")),
            (key("secretKeyRef", "s", "x", false), json!([]), Err("couldn't find key x in Secret n/s")),
            (key("secretKeyRef", "gone", "k", true), json!([]), Ok(())),
            (key("configMapKeyRef", "m", "x", true), json!([]), Ok(())),
            (json!([]), json!([{"configMapRef": {"name": "gone"}}]), Err("configmap \"gone\" not found")),
            (json!([]), json!([{"secretRef": {"name": "gone", "optional": true}}]), Ok(())),
        ] {
            let found = made(env.clone(), from, &objects());
            assert_eq!(found.as_ref().map(|_| ()).map_err(String::as_str), expected, "{env}");
            if let Ok(env) = found {
                assert_eq!(get(&env, "X"), None, "an optional key that is missing sets nothing");
            }
        }
    }

    #[test]
    fn files() {
        let key = |volume: &str, key: &str, optional: bool| json!([{"name": "X", "valueFrom": {"fileKeyRef": {"volumeName": volume, "path": "env", "key": key, "optional": optional}}}]);
        let no_key = "environment variable key \"G\" not found in file \"env\"";
        for (env, expected) in [
            (key("v", "F", false), Ok(Some("file"))),
            (key("v", "G", true), Ok(None)),
            (key("v", "G", false), Err(no_key)),
            (key("w", "F", true), Err("cannot find the volume \"w\" referenced by FileKeyRef")),
        ] {
            let found = made(env.clone(), json!([]), &objects()).map(|env| get(&env, "X"));
            assert_eq!(found.as_ref().map(|x| x.as_deref()).map_err(String::as_str), expected, "{env}");
        }
    }

    #[test]
    fn services() {
        let service = |namespace: &str, name: &str, ip: &str| -> Arc<Service> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": ip, "ports": [{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}]}}))
                .unwrap(),
            )
        };
        let all = [
            service("default", "kubernetes", "10.0.0.1"),
            service("n", "my-svc", "10.0.0.2"),
            service("n", "headless", "None"),
            service("other", "far", "10.0.0.3"),
        ];
        let variables = service_variables(&all, "n", true);
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("MY_SVC_SERVICE_HOST", "10.0.0.2"),
            ("MY_SVC_SERVICE_PORT", "80"),
            ("MY_SVC_SERVICE_PORT_HTTP", "80"),
            ("MY_SVC_PORT", "tcp://10.0.0.2:80"),
            ("MY_SVC_PORT_53_UDP", "udp://10.0.0.2:53"),
            ("MY_SVC_PORT_80_TCP_ADDR", "10.0.0.2"),
        ] {
            assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!variables.keys().any(|name| name.starts_with("FAR") || name.starts_with("HEADLESS")));
        let bare = service_variables(&all, "n", false);
        assert!(bare.contains_key("KUBERNETES_SERVICE_HOST") && !bare.contains_key("MY_SVC_SERVICE_HOST"));
    }
}
