//! A small HTTP/1.1 service around one async function: the upstream of an example.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Listens on a free port, and says so on stdout.
///
/// # Errors
/// When there is no free port.
pub async fn listen() -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    #[expect(clippy::print_stdout, reason = "the parent reads the address there")]
    {
        println!("service listening on {}", listener.local_addr()?);
    }
    Ok(listener)
}

/// Answers until the process ends.
///
/// # Errors
/// When accepting fails.
pub async fn serve<F, A>(listener: TcpListener, answer: F) -> anyhow::Result<()>
where
    F: Fn(Request<Bytes>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send,
{
    let answer = Arc::new(answer);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let answer = Arc::clone(&answer);
        let service = service_fn(move |request| whole(Arc::clone(&answer), request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
    }
}

/// Reads the body, then answers.
async fn whole<F, A>(answer: Arc<F>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn(Request<Bytes>) -> A,
    A: Future<Output = Response<Full<Bytes>>>,
{
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(json(StatusCode::BAD_REQUEST, r#"{"error":"the body broke off"}"#));
    };
    Ok(answer(Request::from_parts(head, body.to_bytes())).await)
}

/// A JSON reply.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// The reply with what was looked for; 404 where there is none.
pub fn found(looked: anyhow::Result<Option<Vec<u8>>>) -> Response<Full<Bytes>> {
    match looked {
        Ok(Some(body)) => json(StatusCode::OK, body),
        Ok(None) => json(StatusCode::NOT_FOUND, r#"{"error":"not found"}"#),
        Err(error) => json(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(r#"{{"error":"{error}"}}"#),
        ),
    }
}
