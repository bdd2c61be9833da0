use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Answers with the length of the body, or with as many bytes as the path says.
struct Lengths;

impl Answers for Lengths {
    async fn answer(self: Arc<Self>, _: Method, path: String, body: Bytes) -> Answer {
        match path.trim_start_matches('/').parse() {
            Ok(length) => Answer::text("x".repeat(length)),
            Err(_) => Answer::text(body.len().to_string()),
        }
    }
}

fn token(text: &str) -> Token {
    Token(text.into())
}

async fn endpoint(token: Option<Token>) -> String {
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let listener = bind(local, token.as_ref()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(serve(listener, token, Arc::new(Lengths)));
    address
}

async fn get(address: &str, token: Option<&Token>) -> Result<Bytes, String> {
    request(address, Method::GET, "/", token, Vec::new()).await
}

/// Sends bytes, and returns all that comes back.
async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may have closed it.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn only_the_token_opens() {
    let own = token("0123456789abcdef");
    let address = endpoint(Some(own.clone())).await;
    assert_eq!(get(&address, Some(&own)).await.unwrap(), "0");
    for wrong in ["0123456789abcdeF", "0123456789abcde", "0123456789abcdef0"] {
        let refused = get(&address, Some(&token(wrong))).await.unwrap_err();
        assert!(refused.contains("401"), "{wrong}: {refused}");
    }
    let refused = get(&address, None).await.unwrap_err();
    assert!(
        refused.contains("the token is missing or wrong"),
        "{refused}"
    );
    assert_eq!(format!("{own:?}"), "Token(..)");
}

#[tokio::test]
async fn beyond_loopback_a_token_is_needed() {
    let everywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let error = bind(everywhere, None).await.unwrap_err();
    assert!(error.to_string().contains("--token-file"), "{error}");
    bind(everywhere, Some(&token("0123456789abcdef")))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_no_request_or_too_large_harms_nobody() {
    let address = endpoint(None).await;
    let garbage = raw(&address, &[0xff; 4096]).await;
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
    let head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(HEAD));
    let head = raw(&address, head.as_bytes()).await;
    assert!(head.starts_with("HTTP/1.1 431"), "{head}");
    let largest = request(&address, Method::POST, "/", None, vec![0; REQUEST]).await;
    assert_eq!(largest.unwrap(), REQUEST.to_string());
    let more = request(&address, Method::POST, "/", None, vec![0; REQUEST + 1]).await;
    assert!(more.unwrap_err().contains("413"));
    // A body that is announced, and does not come in its length.
    let endless = "POST / HTTP/1.1\r\ncontent-length: 18446744073709551615\r\n\r\n";
    let mut endless = endless.as_bytes().to_vec();
    endless.resize(endless.len() + 2 * REQUEST, b'x');
    let endless = raw(&address, &endless).await;
    assert!(!endless.contains("200 OK"), "{endless}");
    assert_eq!(get(&address, None).await.unwrap(), "0");
}

#[tokio::test]
async fn an_answer_without_end_is_not_read() {
    let address = endpoint(None).await;
    let path = |length: usize| format!("/{length}");
    let largest = request(&address, Method::GET, &path(ANSWER), None, Vec::new()).await;
    assert_eq!(largest.unwrap().len(), ANSWER);
    let more = request(&address, Method::GET, &path(ANSWER + 1), None, Vec::new()).await;
    assert!(more.is_err());
}

#[tokio::test]
async fn silent_clients_get_a_second_and_slow_ones_ten() {
    let address = endpoint(None).await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS {
        silent.push(TcpStream::connect(&*address).await.unwrap());
    }
    // This one has no place until one of them has ended.
    assert_eq!(get(&address, None).await.unwrap(), "0");
    let waited = begun.elapsed();
    assert!(waited >= HEAD_TIME / 2 && waited < TIME / 2, "{waited:?}");
    for mut stream in silent {
        let mut end = [0; 1];
        assert!(matches!(stream.read(&mut end).await, Ok(0) | Err(_)));
    }
    // One that has sent its head, and no body.
    let begun = Instant::now();
    let head = b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\n";
    let answer = raw(&address, head).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let waited = begun.elapsed();
    assert!(
        waited >= TIME - HEAD_TIME && waited < 2 * TIME,
        "{waited:?}"
    );
}

#[test]
fn a_token_is_read_from_a_file_that_has_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Token::read(&file)
    };
    assert_eq!(&*read("0123456789abcdef\n").unwrap().0, "0123456789abcdef");
    for text in [
        "",
        "short",
        "0123456789abcdef 0123456789abcdef",
        "0123456789abcde\u{e9}",
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains("openssl rand"), "{error}");
    }
    Token::read(&folder.path().join("none")).unwrap_err();
}
