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
