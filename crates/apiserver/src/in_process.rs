//! The door for components in the same process: a tower service that carries an identity and enters the pipeline behind
//! authentication. Fit for `kube::Client::new`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};

use crate::ApiServer;
use crate::authn::Peer;
use crate::body::{Body, BoxError, boxed};
use crate::user::User;

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// A client side of [`ApiServer`] for one user.
#[derive(Clone)]
pub struct InProcess {
    server: ApiServer,
    user: Arc<User>,
}

impl ApiServer {
    /// A service on which every request comes from `user`.
    pub fn in_process(&self, user: User) -> InProcess {
        InProcess { server: self.clone(), user: Arc::new(user) }
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let InProcess { server, user } = self.clone();
        enter(server, user, request.map(boxed))
    }
}

/// Apart from the generic call, whose copy in every crate that makes a client would hold the whole pipeline.
fn enter(server: ApiServer, user: Arc<User>, request: Request<Body>) -> Answer {
    Box::pin(async move { Ok(server.handle(request, Peer::InProcess(user)).await) })
}
