//! The roles of the program.

pub(crate) mod cli;
pub(crate) mod client;
pub(crate) mod demo;
pub(crate) mod executor;
pub(crate) mod scheduler;
pub(crate) mod status;
mod tpch;

use std::io::Read;

use arrow_memory_ballista::Token;

use self::cli::Endpoint;

/// Returns the token that the options name.
fn token(endpoint: &Endpoint) -> Result<Option<Token>, String> {
    endpoint.token_file.as_deref().map(Token::read).transpose()
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
