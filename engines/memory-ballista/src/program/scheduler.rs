//! The role `scheduler`.

use std::net::SocketAddr;
use std::sync::Arc;

use arrow_memory_ballista::{Endpoint, Placement, session_config};
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::serde::protobuf::UpdateTaskStatusParams;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::utils::default_session_builder;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tonic::Request;

use super::cli::Scheduler;
use super::{stopped, token, until_stdin_closes};

pub(crate) async fn run(options: Scheduler) -> Result<(), String> {
    let token = token(&options.endpoint)?;
    let address = SocketAddr::new(options.bind, options.port);
    let status_address = SocketAddr::new(options.endpoint.status_bind, options.status_port);
    let config = Arc::new(config(&options));
    let cluster = BallistaCluster::new_memory(
        config.scheduler_endpoint(),
        Arc::new(default_session_builder),
        Arc::new(session_config),
    );
    let placement = Arc::new(Placement::over(cluster.cluster_state()));
    let cluster = BallistaCluster::new(Arc::clone(&placement) as _, cluster.job_state());
    let endpoint = Endpoint::scheduler(&placement, status_address, token).await;
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, config)
        .await
        .map_err(|error| error.to_string())?;
    let wanted = options.until_stdin_closes;
    eprintln!("scheduler: clients and executors at {address}; `status` asks {status_address}");
    tokio::select! {
        ended = start_grpc_service(address, scheduler.clone()) => {
            ended.map_err(|error| format!("cannot serve on {address}: {error}"))
        }
        () = endpoint.serve() => Ok(()),
        () = revive(scheduler, &placement) => Ok(()),
        () = until_stdin_closes(wanted) => Ok(()),
        () = stopped() => Ok(()),
    }
}

fn config(options: &Scheduler) -> SchedulerConfig {
    // Looked for often enough that an executor is not lost for much longer than it may be silent.
    let each = (options.executor_timeout / 4).clamp(1, 15);
    SchedulerConfig {
        external_host: options.external_host.clone(),
        bind_host: options.bind.to_string(),
        bind_port: options.port,
        // With pull scheduling nobody could choose an executor.
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        executor_timeout_seconds: options.executor_timeout,
        expire_dead_executor_interval_seconds: each,
        no_executors_grace_period_seconds: options.executor_timeout,
        task_max_failures: options.task_failures.into(),
        stage_max_failures: options.stage_failures.into(),
        override_config_producer: Some(Arc::new(session_config)),
        ..SchedulerConfig::default()
    }
}

/// Has tasks offered anew when an executor that had no room has got some. Ballista offers them when a task ends, and has no
/// public call for it; but the message that says which tasks have ended may name none.
async fn revive(scheduler: impl SchedulerGrpc, placement: &Placement) {
    loop {
        let ended = UpdateTaskStatusParams {
            executor_id: placement.revived().await,
            task_status: Vec::new(),
        };
        // If it is lost, the next one that ends offers them.
        let _ = scheduler.update_task_status(Request::new(ended)).await;
    }
}
