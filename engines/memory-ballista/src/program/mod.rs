//! The roles of the program.

pub(crate) mod cli;
pub(crate) mod client;
pub(crate) mod demo;
pub(crate) mod executor;
pub(crate) mod scheduler;
pub(crate) mod status;
mod tpch;

use std::io::{Read, Write};

use arrow_memory_ballista::Token;

use self::cli::Endpoint;

/// Returns the token that the options name.
fn token(endpoint: &Endpoint) -> Result<Option<Token>, String> {
    endpoint.token_file.as_deref().map(Token::read).transpose()
}

/// Prints a text. A reader that has gone is no error.
fn print(text: &str) -> Result<(), String> {
    let mut output = std::io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Returns host and port.
fn host_and_port<'a>(flag: &str, text: &'a str) -> Result<(&'a str, u16), String> {
    let parts = text.rsplit_once(':');
    let parts = parts.filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parts.ok_or_else(|| format!("{flag} {text}: it is no HOST:PORT"))
}

/// Looks whether something listens there.
async fn reach(flag: &str, text: &str) -> Result<(), String> {
    host_and_port(flag, text)?;
    let connected = tokio::net::TcpStream::connect(text).await;
    let connected = connected.map_err(|error| format!("{flag} {text}: {error}"));
    connected.map(drop)
}

/// Ends when this process is asked to stop.
#[cfg(unix)]
async fn stopped() {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let Ok(mut terminate) = terminate else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Ends when this process is asked to stop.
#[cfg(not(unix))]
async fn stopped() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Ends when the input of this process is closed, if that is wanted, and never otherwise.
async fn until_stdin_closes(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let (closed, wait) = tokio::sync::oneshot::channel();
    // A thread of its own: it may be blocked for as long as the process lives.
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut bytes = [0; 64];
        while input.read(&mut bytes).is_ok_and(|read| read > 0) {}
        // Nobody waits once the process ends for another reason.
        let _ = closed.send(());
    });
    // An error is the end of the thread, too.
    let _ = wait.await;
}
