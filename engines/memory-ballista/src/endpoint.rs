//! What executors and the scheduler answer on their endpoints, and what executors tell the scheduler.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_memory_datafusion::MetricsExporter;
use futures::future::BoxFuture;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::http::{self, Answer, Answers, Token};
use crate::memory::BallistaMemory;
use crate::placement::Placement;
use crate::status::{ExecutorStatus, ExecutorTree};

/// How often an executor tells its numbers.
pub const EACH: Duration = Duration::from_secs(1);

/// The longest identifier or address of an executor.
const NAME: usize = 255;

/// An endpoint that is bound, and answers while [`serve`](Self::serve) is polled.
pub struct Endpoint {
    port: u16,
    serving: BoxFuture<'static, ()>,
}

impl Endpoint {
    /// Binds the endpoint of an executor. It answers `GET /tree` with an [`ExecutorTree`], `GET /status` with an
    /// [`ExecutorStatus`], and `GET /metrics` with a page of Prometheus.
    ///
    /// # Errors
    ///
    /// If the address is taken, or is not a loopback address and there is no token.
    pub async fn executor(
        executor: Executor,
        address: SocketAddr,
        token: Option<Token>,
    ) -> io::Result<Self> {
        let exporter = MetricsExporter::new(executor.memory.allocator());
        let answers = ExecutorAnswers {
            exporter: Mutex::new(exporter),
            executor,
            recorder: PrometheusBuilder::new().build_recorder(),
        };
        Self::bind(address, token, answers).await
    }

    /// Binds the endpoint of a scheduler. `POST /report` takes an [`ExecutorStatus`], and `GET /executors` is answered with the
    /// last one of each executor, as [`Told`](crate::Told).
    ///
    /// # Errors
    ///
    /// If the address is taken, or is not a loopback address and there is no token.
    pub async fn scheduler(
        placement: &Arc<Placement>,
        address: SocketAddr,
        token: Option<Token>,
    ) -> io::Result<Self> {
        let answers = SchedulerAnswers(Arc::clone(placement));
        Self::bind(address, token, answers).await
    }

    async fn bind(
        address: SocketAddr,
        token: Option<Token>,
        answers: impl Answers,
    ) -> io::Result<Self> {
        let listener = http::bind(address, token.as_ref()).await?;
        Ok(Self {
            port: listener.local_addr()?.port(),
            serving: Box::pin(http::serve(listener, token, Arc::new(answers))),
        })
    }

    /// Returns the port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers for as long as it is polled.
    pub async fn serve(self) {
        self.serving.await;
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

// ---- an executor ----------------------------------------------------------------------------

/// What an executor answers.
struct ExecutorAnswers {
    executor: Executor,
    exporter: Mutex<MetricsExporter>,
    recorder: PrometheusRecorder,
}

/// An executor's memory, and where it can be asked for it.
#[derive(Clone, Debug)]
pub struct Executor {
    /// Its identifier in Ballista.
    pub id: String,
    /// Host and port of its endpoint, as others reach it.
    pub address: String,
    /// Its memory.
    pub memory: BallistaMemory,
}

impl Executor {
    fn status(&self) -> ExecutorStatus {
        ExecutorStatus {
            executor: self.id.clone(),
            address: self.address.clone(),
            ..self.memory.status()
        }
    }

    fn tree(&self) -> ExecutorTree {
        let mut tree = self.memory.tree();
        tree.status = self.status();
        tree
    }

    /// Tells the scheduler the executor's numbers once.
    ///
    /// # Errors
    ///
    /// Why they did not arrive. Until they do, Ballista places tasks here as it does without them.
    pub async fn tell(&self, scheduler: &str, token: Option<&Token>) -> Result<(), String> {
        let body = serde_json::to_vec(&self.status()).map_err(|error| error.to_string())?;
        http::request(scheduler, Method::POST, "/report", token, body).await?;
        Ok(())
    }
}

impl ExecutorAnswers {
    fn page(&self) -> String {
        let mut exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner);
        metrics::with_local_recorder(&self.recorder, || {
            exporter.export();
            let status = self.executor.status();
            for (name, number) in [
                ("arrow_memory_tasks_running", status.running),
                ("arrow_memory_tasks_waiting", status.waiting),
                ("arrow_memory_resident_bytes", status.resident.unwrap_or(0)),
                (
                    "arrow_memory_resident_peak_bytes",
                    status.resident_peak.unwrap_or(0),
                ),
            ] {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "Prometheus has no other numbers"
                )]
                metrics::gauge!(name).set(number as f64);
            }
            for (name, number) in [
                ("arrow_memory_tasks_waited_total", status.waited),
                ("arrow_memory_tasks_refused_total", status.refused),
                ("arrow_memory_tasks_handed_back_total", status.handed_back),
            ] {
                metrics::counter!(name).absolute(number);
            }
        });
        drop(exporter);
        self.recorder.handle().render()
    }
}

impl Answers for ExecutorAnswers {
    async fn answer(self: Arc<Self>, method: Method, path: String, _: Bytes) -> Answer {
        let answers = self;
        if method != Method::GET {
            return not_found();
        }
        // A tree may have many operators. Workers have tasks to run.
        let answer = tokio::task::spawn_blocking(move || match &*path {
            "/tree" => Answer::json(&answers.executor.tree()),
            "/status" => Answer::json(&answers.executor.status()),
            "/metrics" => Answer::text(answers.page()),
            _ => not_found(),
        });
        let panicked = |_| Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "it failed");
        answer.await.unwrap_or_else(panicked)
    }
}

fn not_found() -> Answer {
    Answer::error(StatusCode::NOT_FOUND, "nothing is known of this path")
}

// ---- the scheduler --------------------------------------------------------------------------

/// What the scheduler answers.
struct SchedulerAnswers(Arc<Placement>);

impl SchedulerAnswers {
    async fn report(&self, body: &[u8]) -> Answer {
        let status: ExecutorStatus = match serde_json::from_slice(body) {
            Ok(status) => status,
            Err(error) => return Answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        if status.executor.len().max(status.address.len()) > NAME {
            return Answer::error(StatusCode::BAD_REQUEST, "a name has at most 255 bytes");
        }
        match self.0.told(status).await {
            true => Answer::json(&()),
            false => Answer::error(StatusCode::NOT_FOUND, "the executor is not registered"),
        }
    }
}

impl Answers for SchedulerAnswers {
    async fn answer(self: Arc<Self>, method: Method, path: String, body: Bytes) -> Answer {
        match (&method, &*path) {
            (&Method::POST, "/report") => self.report(&body).await,
            (&Method::GET, "/executors") => Answer::json(&self.0.executors()),
            _ => not_found(),
        }
    }
}
