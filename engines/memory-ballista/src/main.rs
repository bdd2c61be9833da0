//! `arrow-memory-ballista`: a scheduler and executors of Ballista under one memory policy, and what shows it.
//!
//! `cli` has the command line; `scheduler`, `executor`, `client`, `status` and `demo` are its roles.

mod program;

use std::process::ExitCode;

use clap::Parser;

use program::cli::{Cli, Role};
use program::{client, demo, executor, scheduler, status};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filters = std::env::var("RUST_LOG").unwrap_or_else(|_| cli.role.log().to_owned());
    env_logger::Builder::new().parse_filters(&filters).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Err(error) => Err(format!("cannot begin: {error}")),
        Ok(runtime) => {
            let done = runtime.block_on(async {
                match cli.role {
                    Role::Scheduler(options) => scheduler::run(options).await,
                    Role::Executor(options) => executor::run(options).await,
                    Role::Client(options) => client::run(options).await,
                    Role::Status(options) => status::run(options).await,
                    Role::Cancel(options) => client::cancel(options).await,
                    Role::Demo(options) => demo::run(options).await,
                }
            });
            // What still computes is not waited for.
            runtime.shutdown_background();
            done
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
