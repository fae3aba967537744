//! The demonstration website: what a visitor of `phantom demo` reaches through the network.
//!
//! `/` explains itself; `/bytes/N` and `/sha256/N` show that much data arrives whole, and fast, `/upload` the same the other
//! way; `/images` has a hundred pictures; `/echo` sends back what a POST or a WebSocket brings, while it comes.

mod hashes;
mod images;
mod page;
mod range;
pub mod sequence;

use std::{convert::Infallible, io};

use axum::{
    Router,
    body::Body,
    extract::{
        FromRequestParts, Path, Request, State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use data_encoding::HEXLOWER;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use hashes::Hashes;
use range::Wanted;
use sequence::Sequence;

pub use page::Facts;

/// The longest sequence: 16 GiB.
pub const LONGEST: u64 = 16 << 30;
/// The largest WebSocket message that is echoed.
const MESSAGE: usize = 1 << 20;

#[derive(Clone)]
struct Site {
    facts: Facts,
    hashes: Hashes,
}

/// Serves the website on a listener until the future is dropped.
pub async fn serve(listener: TcpListener, facts: Facts) -> io::Result<()> {
    axum::serve(listener, router(facts)).await
}

/// The website itself.
pub fn router(facts: Facts) -> Router {
    Router::new()
        .route("/", get(front))
        .route("/bytes", get(|| async { NotANumber }))
        .route("/bytes/", get(|| async { NotANumber }))
        .route("/bytes/{n}", get(bytes))
        .route("/sha256", get(|| async { NotANumber }))
        .route("/sha256/", get(|| async { NotANumber }))
        .route("/sha256/{n}", get(sha256))
        .route("/upload", post(upload))
        .route("/images", get(images))
        .route("/images/{number}", get(image))
        .route("/echo", any(echo))
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                "There is nothing here. Try /, /bytes/N, /sha256/N, /upload, /images or /echo.\n",
            )
        })
        .with_state(Site { facts, hashes: Hashes::default() })
}

async fn front(State(site): State<Site>) -> Response {
    document(page::POLICY, page::render(&site.facts))
}

async fn images() -> Response {
    document(images::POLICY, images::page())
}

fn document(policy: &'static str, page: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, page).into_response()
}

async fn image(Path(number): Path<usize>) -> Response {
    match images::picture(number) {
        Some(picture) => {
            let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "no-store")];
            (headers, picture).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// How many bytes came, and their hash.
async fn upload(request: Request) -> Response {
    let (mut body, mut length, mut hash) = (request.into_body().into_data_stream(), 0, Sha256::new());
    while let Some(part) = body.next().await {
        let Ok(part) = part else { return StatusCode::BAD_REQUEST.into_response() };
        length += part.len() as u64;
        hash.update(&part);
    }
    format!("{length} {}\n", HEXLOWER.encode(&hash.finalize())).into_response()
}

/// The answer to anything that is no length.
struct NotANumber;

impl IntoResponse for NotANumber {
    fn into_response(self) -> Response {
        let why =
            format!("N must be a number of bytes from 0 to {LONGEST} (16 GiB), as in /bytes/1048576.\n");
        (StatusCode::BAD_REQUEST, why).into_response()
    }
}

fn length(n: &str) -> Result<u64, NotANumber> {
    let digits = !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit());
    n.parse().ok().filter(|length| digits && *length <= LONGEST).ok_or(NotANumber)
}

async fn bytes(Path(n): Path<String>, headers: HeaderMap) -> Result<Response, NotANumber> {
    let length = length(&n)?;
    let tag = format!("\"sequence-{length}\"");
    let (status, start, end) = match range::wanted(&headers, length, &tag) {
        Wanted::Whole => (StatusCode::OK, 0, length),
        Wanted::Part(start, end) => (StatusCode::PARTIAL_CONTENT, start, end),
        Wanted::OutOfBounds => {
            let there_is = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, there_is).into_response());
        }
    };
    let body = Body::from_stream(stream::iter(Sequence::new(start, end).map(Ok::<_, Infallible>)));
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    set(headers, header::CONTENT_TYPE, "application/octet-stream");
    set(headers, header::ACCEPT_RANGES, "bytes");
    set(headers, header::CONTENT_LENGTH, &(end - start).to_string());
    set(headers, header::ETAG, &tag);
    if status == StatusCode::PARTIAL_CONTENT {
        set(headers, header::CONTENT_RANGE, &format!("bytes {start}-{}/{length}", end - 1));
    }
    Ok(response)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

async fn sha256(State(site): State<Site>, Path(n): Path<String>) -> Result<Response, NotANumber> {
    let length = length(&n)?;
    Ok(match site.hashes.hex(length).await {
        Ok(hex) => format!("{hex}\n").into_response(),
        Err(hashes::Busy) => {
            let again = [(header::RETRY_AFTER, "5")];
            (StatusCode::SERVICE_UNAVAILABLE, again, "Too many hashes at once; try again soon.\n")
                .into_response()
        }
    })
}

/// A WebSocket if one is asked for, else the body of a POST as it comes.
async fn echo(request: Request) -> Response {
    if request.headers().contains_key(header::UPGRADE) {
        let (mut parts, _) = request.into_parts();
        return match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
            Ok(upgrade) => {
                upgrade.max_message_size(MESSAGE).max_frame_size(MESSAGE).on_upgrade(echo_messages)
            }
            Err(refused) => refused.into_response(),
        };
    }
    if request.method() != axum::http::Method::POST {
        let how = "POST something here, or open a WebSocket: it comes back.\n";
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], how).into_response();
    }
    let (parts, body) = request.into_parts();
    let mut response = Response::new(Body::from_stream(body.into_data_stream()));
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

async fn echo_messages(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
