//! Whoever does not prove that he knows this node meets a web server (PROTOCOL §2).
//!
//! For now it has one page. It reads a request as a small web server does, within a limit of time and bytes, says
//! "400 Bad Request" and closes in order.

use std::time::Duration;

use tokio::time::timeout;

use super::connection::Connection;

/// A request may take this long, as may the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a common web server takes as the longest request header.
const LONGEST_REQUEST: usize = 8 * 1024;

/// Answers a connection whose first bytes, `seen`, were no proof of identity, and closes it.
pub(super) async fn answer_stranger(mut connection: Connection, seen: &[u8]) {
    // Errors end the conversation: there is nobody to tell.
    let _ = timeout(PATIENCE, read_request(&mut connection, seen)).await;
    let _ = timeout(PATIENCE, async {
        connection.write_all(bad_request().as_bytes()).await?;
        connection.close().await
    })
    .await;
}

/// Reads on while what came could still become a request.
async fn read_request(connection: &mut Connection, seen: &[u8]) -> std::io::Result<()> {
    let mut request = seen.to_vec();
    let mut chunk = [0; 1024];
    while request.len() < LONGEST_REQUEST && may_become_request(&request) {
        let length = connection.read(&mut chunk).await?;
        if length == 0 {
            break;
        }
        request.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    Ok(())
}

fn may_become_request(request: &[u8]) -> bool {
    let method = request.iter().take_while(|byte| **byte != b' ').take(16);
    let is_method = method.clone().all(u8::is_ascii_uppercase) && method.count() < 16;
    is_method && !request.windows(4).any(|end| end == b"\r\n\r\n")
}

fn bad_request() -> String {
    const PAGE: &str = "<html>\r\n<head><title>400 Bad Request</title></head>\r\n<body>\r\n\
        <center><h1>400 Bad Request</h1></center>\r\n</body>\r\n</html>\r\n";
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PAGE}",
        PAGE.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_to_its_end_and_garbage_is_not() {
        assert!(may_become_request(b""));
        assert!(may_become_request(b"GE"));
        assert!(may_become_request(b"GET / HTTP/1.1\r\nHost: x\r\n"));
        assert!(!may_become_request(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(!may_become_request(b"\x08\0\0"));
        assert!(!may_become_request(b"ABCDEFGHIJKLMNOPQRST"));
    }
}
