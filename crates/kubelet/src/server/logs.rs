//! `GET /containerLogs/{namespace}/{pod}/{container}`.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::query::Query;
use super::{Body, Context, text};
use crate::host::Host;
use crate::logs::read::{self, Options};
use crate::pod::observed::{Container, Observed, State};
use crate::pod::spec;

/// Pieces of text that wait for a slow client.
const QUEUE: usize = 16;

/// Answers with the log of a container.
pub async fn container_logs(
    context: &Context,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    let options = match options(query, Timestamp::now()) {
        Ok(options) => options,
        Err(why) => return text(StatusCode::UNPROCESSABLE_ENTITY, why),
    };
    match choose(context, namespace, pod, container, query.flag("previous")).await {
        Ok(chosen) => stream(context.host.clone(), chosen, options),
        Err((status, why)) => text(status, why),
    }
}

fn options(query: &Query, now: Timestamp) -> Result<Options, String> {
    let seconds = query.number("sinceSeconds")?;
    let since = match (seconds, query.get("sinceTime").filter(|text| !text.is_empty())) {
        (Some(seconds), _) => {
            let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.checked_sub(back).unwrap_or(Timestamp::MIN))
        }
        (None, Some(time)) => Some(time.parse().map_err(|_| format!("invalid sinceTime: \"{time}\""))?),
        (None, None) => None,
    };
    let stream = query.get("stream").unwrap_or("All");
    Ok(Options {
        follow: query.flag("follow"),
        tail_lines: query.number("tailLines")?,
        since,
        timestamps: query.flag("timestamps"),
        limit_bytes: query.number("limitBytes")?,
        stdout: stream != "Stderr",
        stderr: stream != "Stdout",
    })
}

/// The container whose log is wanted. Errors are upstream's words.
async fn choose(
    context: &Context,
    namespace: &str,
    pod: &str,
    name: &str,
    previous: bool,
) -> Result<Container, (StatusCode, String)> {
    let found = context.manager.find(namespace, pod);
    let found = found.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist")))?;
    if spec::container(&found, name).is_none() {
        return Err((StatusCode::NOT_FOUND, format!("container {name} is not valid for pod {pod}")));
    }
    let observed = Observed::load(&context.host.cri, spec::uid(&found)).await;
    let observed = observed.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    if previous {
        // while a container waits for its restart, the newest is itself the previous one
        let waits = observed.latest(name).filter(|c| c.state == State::Exited && !is_final(&found, name, c));
        let chosen = waits.or_else(|| observed.previous(name)).cloned();
        let missing = format!("previous terminated container \"{name}\" in pod \"{pod}\" not found");
        return chosen.ok_or((StatusCode::BAD_REQUEST, missing));
    }
    let waiting = waiting_reason(&found, name);
    let missing = match waiting {
        Some(reason) if matches!(reason.as_str(), "ErrImagePull" | "ImagePullBackOff") => {
            format!(
                "container \"{name}\" in pod \"{pod}\" is waiting to start: trying and failing to pull image"
            )
        }
        Some(reason) => format!("container \"{name}\" in pod \"{pod}\" is waiting to start: {reason}"),
        None => format!("container \"{name}\" in pod \"{pod}\" is not available"),
    };
    // one that was made and has not started yet has said nothing
    let began = observed.containers.iter().find(|c| c.name == name && c.state != State::Created);
    began.cloned().ok_or((StatusCode::BAD_REQUEST, missing))
}

fn is_final(pod: &k8s_openapi::api::core::v1::Pod, name: &str, container: &Container) -> bool {
    spec::container(pod, name)
        .is_none_or(|(kind, c)| !spec::should_restart(pod, kind, &c, container.exit_code))
}

fn waiting_reason(pod: &k8s_openapi::api::core::v1::Pod, name: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let known = lists.into_iter().flatten().flatten().find(|known| known.name == name)?;
    known.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn stream(host: Arc<Host>, container: Container, options: Options) -> Response<Body> {
    let (sink, source) = mpsc::channel::<Bytes>(QUEUE);
    let log = PathBuf::from(&container.log_path);
    tokio::spawn(async move {
        let ended = until_ended(&host, &container);
        if let Err(error) = read::stream(&log, options, sink, ended).await {
            tracing::debug!(log = %log.display(), %error, "log stream ended early");
        }
    });
    let frames = ReceiverStream::new(source).map(|text| Ok::<_, std::io::Error>(Frame::data(text)));
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let plain = http::HeaderValue::from_static("text/plain");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    answer
}

/// Resolves when the container has ended (at once when it has already).
async fn until_ended(host: &Host, container: &Container) {
    let mut events = host.runtime_events.subscribe();
    loop {
        events.mark_unchanged();
        let status = host.cri.container_status(&container.id).await;
        let running = k8s_cri::v1::ContainerState::ContainerRunning as i32;
        match status {
            Ok(Some(status)) if status.state == running => {}
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "container status for a followed log"),
        }
        if events.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let now: Timestamp = "2020-01-01T00:01:00Z".parse().unwrap();
        let made = |query: &str| options(&Query::parse(query), now);
        let all =
            made("follow=true&tailLines=5&sinceSeconds=30&timestamps=1&limitBytes=9&stream=Stderr").unwrap();
        let expected = Options {
            follow: true,
            tail_lines: Some(5),
            since: Some("2020-01-01T00:00:30Z".parse().unwrap()),
            timestamps: true,
            limit_bytes: Some(9),
            stdout: false,
            stderr: true,
        };
        assert_eq!(all, expected);
        assert_eq!(made("").unwrap(), Options::default());
        assert!(made("tailLines=-1").is_err() && made("sinceTime=x").is_err());
    }
}
