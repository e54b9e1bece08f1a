//! What an answer of the API means to someone who wanted a change that may have happened already.

/// The object is gone: there was nothing left to do.
pub fn gone_is_fine<T>(answer: Result<T, kube::Error>) -> Result<(), kube::Error> {
    ignore(answer, &[404])
}

/// The object is gone, or another one by now.
pub fn changed_is_fine<T>(answer: Result<T, kube::Error>) -> Result<(), kube::Error> {
    ignore(answer, &[404, 409])
}

/// Ignores answers with these HTTP codes.
pub fn ignore<T>(answer: Result<T, kube::Error>, codes: &[u16]) -> Result<(), kube::Error> {
    match answer {
        Err(kube::Error::Api(status)) if codes.contains(&status.code) => Ok(()),
        other => other.map(drop),
    }
}

/// What an error says, without our client's own words.
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// A namespace that is being deleted takes no new objects; trying on would only make noise.
pub fn is_namespace_ending(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|d| &d.causes);
    status.code == 403 && causes.into_iter().any(|c| c.reason == "NamespaceTerminating")
}

/// The object changed under our hands: the watch brings the change, and with it another look.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
