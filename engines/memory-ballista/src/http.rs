//! A small HTTP endpoint with bounds, and a client for it.
//!
//! A connection has one request and ends with its answer. It may take [`TIME`] in all, and there are [`CONNECTIONS`] of them at
//! a time: more wait until one of those has ended. What is said is not encrypted.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a connection may take, and a request of the client.
pub const TIME: Duration = Duration::from_secs(10);

/// How many connections are served at a time.
pub const CONNECTIONS: usize = 64;

/// The largest body of a request.
pub const REQUEST: usize = 1 << 20;

/// How long the head of a request may take: one that says nothing is not let have a place for long.
const HEAD_TIME: Duration = Duration::from_secs(1);

/// The largest head of a request.
const HEAD: usize = 16 << 10;

/// The largest answer that the client reads: a tree with 10,000 operators takes less than 2 MiB.
pub const ANSWER: usize = 16 << 20;

/// The secret that requests must have.
#[derive(Clone)]
pub struct Token(Arc<str>);

/// The shortest token.
const SHORTEST: usize = 16;

impl Token {
    /// Reads the token from a file: its text without white space around it.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has fewer than 16 characters or others than letters, digits and `-._~+/=`.
    pub fn read(file: &Path) -> Result<Self, String> {
        let said = |what: &str| format!("the token file `{}` {what}", file.display());
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| said(&format!("cannot be read: {error}")))?;
        let text = text.trim();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
        if text.len() < SHORTEST || !text.chars().all(allowed) {
            return Err(said(&format!(
                "must have at least {SHORTEST} letters, digits or characters of -._~+/=, and nothing else; \
                 `openssl rand -hex 32` prints such a text"
            )));
        }
        Ok(Self(text.into()))
    }

    /// Whether a request has it. This takes the same time for each text of the same length.
    fn is_in(&self, head: &hyper::HeaderMap) -> bool {
        let given = head
            .get(AUTHORIZATION)
            .map_or(&b""[..], |value| value.as_bytes());
        let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
        let own = self.0.as_bytes();
        let differ = own
            .iter()
            .zip(given)
            .fold(0, |differ, (a, b)| differ | (a ^ b));
        own.len() == given.len() && std::hint::black_box(differ) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// An answer: its status, its type and its text.
#[derive(Debug)]
pub(crate) struct Answer(StatusCode, &'static str, String);

impl Answer {
    pub(crate) fn json(value: &impl serde::Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(text) => Self(StatusCode::OK, "application/json", text),
            Err(error) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    pub(crate) fn text(text: String) -> Self {
        Self(StatusCode::OK, "text/plain; version=0.0.4", text)
    }

    pub(crate) fn error(status: StatusCode, what: &str) -> Self {
        Self(status, "text/plain", format!("{what}\n"))
    }
}

/// What an endpoint answers, to a method, a path and a body.
pub(crate) trait Answers: Send + Sync + 'static {
    fn answer(
        self: Arc<Self>,
        method: Method,
        path: String,
        body: Bytes,
    ) -> impl Future<Output = Answer> + Send;
}

/// Binds a listener.
///
/// # Errors
///
/// If the address is taken, or is not a loopback address and there is no token.
pub(crate) async fn bind(address: SocketAddr, token: Option<&Token>) -> io::Result<TcpListener> {
    if token.is_none() && !address.ip().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{address} can be reached from other machines: a token is needed there (--token-file), or a loopback address"
            ),
        ));
    }
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Serves connections for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, token: Option<Token>, answers: Arc<impl Answers>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Too many files are open: some of them are closed soon.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (token, answers) = (token.clone(), Arc::clone(&answers));
        tokio::spawn(async move {
            // What goes wrong on a connection is the other side's.
            let _ = timeout(TIME, connection(stream, token, answers)).await;
            drop(place);
        });
    }
}

async fn connection(
    stream: TcpStream,
    token: Option<Token>,
    answers: Arc<impl Answers>,
) -> hyper::Result<()> {
    let service = service_fn(|request: Request<Incoming>| {
        let (token, answers) = (token.clone(), Arc::clone(&answers));
        async move { answered(request, token, answers).await }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answered(
    request: Request<Incoming>,
    token: Option<Token>,
    answers: Arc<impl Answers>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let allowed = token.is_none_or(|token| token.is_in(&head.headers));
    let answer = if !allowed {
        Answer::error(StatusCode::UNAUTHORIZED, "the token is missing or wrong")
    } else {
        match Limited::new(body, REQUEST).collect().await {
            Ok(body) => {
                let path = head.uri.path().to_owned();
                answers.answer(head.method, path, body.to_bytes()).await
            }
            Err(error) if error.is::<LengthLimitError>() => {
                Answer::error(StatusCode::PAYLOAD_TOO_LARGE, "a request has at most 1 MiB")
            }
            Err(_) => Answer::error(StatusCode::BAD_REQUEST, "the request broke off"),
        }
    };
    let Answer(status, kind, text) = answer;
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// Sends a request, and returns the answer's body.
///
/// # Errors
///
/// What went wrong, with the address: no connection, no answer within 10 s, an answer that is longer than 16 MiB, or one that
/// is an error.
pub async fn request(
    address: &str,
    method: Method,
    path: &str,
    token: Option<&Token>,
    body: Vec<u8>,
) -> Result<Bytes, String> {
    let said = |what: String| format!("http://{address}{path}: {what}");
    let answer = timeout(TIME, exchange(address, method, path, token, body)).await;
    let answer = answer.map_err(|_| said(format!("no answer within {} s", TIME.as_secs())))?;
    let (status, body) = answer.map_err(|error| said(error.to_string()))?;
    if status.is_success() {
        return Ok(body);
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
    Err(said(format!("{status}: {}", text.trim().escape_debug())))
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    address: &str,
    method: Method,
    path: &str,
    token: Option<&Token>,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), Failed> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.0));
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER).collect().await?;
        Ok((status, body.to_bytes()))
    };
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    // The connection may end with the answer, which is read all the same.
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

#[cfg(test)]
mod tests;
