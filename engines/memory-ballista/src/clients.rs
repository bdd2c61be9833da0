//! Connections to other executors, which shuffle readers share. Ballista has a pool of its own, which is private to it, and
//! without one each read of a result opens a connection.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::client::BallistaClient;
use ballista_core::client_pool::{BallistaClientPool, PooledClient};
use ballista_core::error::Result;
use ballista_core::extension::BallistaConfigGrpcEndpoint;
use ballista_core::utils::GrpcClientConfig;

/// A pool of connections. One that nobody has used for a while is closed when another one is taken or given back. Clones are
/// handles of the same.
#[derive(Clone)]
pub struct Clients(Arc<Pool>);

struct Pool {
    keep: Duration,
    idle: Mutex<HashMap<Key, Vec<Idle>>>,
}

type Key = (String, u16, GrpcClientConfig);

struct Idle {
    client: BallistaClient,
    since: Instant,
}

impl Clients {
    /// Returns an empty pool that keeps a connection for that long after its last use.
    pub fn new(keep: Duration) -> Self {
        Self(Arc::new(Pool {
            keep,
            idle: Mutex::default(),
        }))
    }
}

impl Pool {
    /// Returns a connection of that key, the one that was used last.
    fn take(&self, key: &Key) -> Option<BallistaClient> {
        let mut idle = self.lock();
        let old = self.take_old(&mut idle);
        let client = idle.get_mut(key).and_then(Vec::pop);
        drop(idle);
        drop(old);
        Some(client?.client)
    }

    fn give_back(&self, key: Key, client: BallistaClient) {
        let mut idle = self.lock();
        let old = self.take_old(&mut idle);
        let since = Instant::now();
        idle.entry(key).or_default().push(Idle { client, since });
        drop(idle);
        drop(old);
    }

    /// Takes out those that have not been used for too long, to be dropped without the lock.
    fn take_old(&self, idle: &mut HashMap<Key, Vec<Idle>>) -> Vec<Idle> {
        let mut old = Vec::new();
        for clients in idle.values_mut() {
            old.extend(clients.extract_if(.., |client| client.since.elapsed() > self.keep));
        }
        idle.retain(|_, clients| !clients.is_empty());
        old
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl BallistaClientPool for Clients {
    async fn acquire(
        &self,
        host: &str,
        port: u16,
        config: &GrpcClientConfig,
        customize_endpoint: Option<Arc<BallistaConfigGrpcEndpoint>>,
    ) -> Result<PooledClient> {
        let key = (host.to_owned(), port, config.clone());
        let client = match self.0.take(&key) {
            Some(client) => client,
            None => {
                BallistaClient::try_new(
                    host,
                    port,
                    config.max_message_size,
                    config.use_tls,
                    customize_endpoint,
                    config.io_retries_times,
                    config.io_retry_wait_time_ms,
                    config.initial_connection_window_size,
                    config.initial_stream_window_size,
                )
                .await?
            }
        };
        let pool = Arc::clone(&self.0);
        let give_back = move |client| pool.give_back(key, client);
        Ok(PooledClient::new(client, Box::new(give_back)))
    }

    async fn evict_idle(&self) {
        let old = self.0.take_old(&mut self.0.lock());
        drop(old);
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients")
            .field("idle", &self.0.lock().values().map(Vec::len).sum::<usize>())
            .finish_non_exhaustive()
    }
}
