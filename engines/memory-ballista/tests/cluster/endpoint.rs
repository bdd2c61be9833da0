//! Tests of the endpoints: requests need the token, and garbage and silent clients do no harm.

use std::io::{Read, Write};
use std::net::TcpStream;

use arrow_memory_ballista::local::{LocalCluster, LocalOptions};

use crate::support::{Outcome, options, outcome, query, run, start};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_nothing_is_shown_or_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (own, other) = (
        file("own", "a-secret-of-this-cluster"),
        file("other", "another-secret-of-16"),
    );
    for role in [
        &["scheduler", "--port=0"][..],
        &["executor", "--budget=64MiB"],
    ] {
        let mut arguments = role.to_vec();
        arguments.push("--status-bind=0.0.0.0");
        let (right, text) = run(&arguments);
        assert!(!right && text.contains("--token-file"), "{text}");
    }
    let options = LocalOptions {
        token_file: Some(own.clone().into()),
        ..options(&["--budget=64MiB"], &[])
    };
    let cluster = LocalCluster::start(&options).await.unwrap();
    let address = format!("--scheduler-status={}", cluster.status_address());
    let status = |token: Option<&str>| {
        let token = token.map(|file| format!("--token-file={file}"));
        let mut arguments = vec!["status", &*address];
        arguments.extend(token.as_deref());
        run(&arguments)
    };
    let (right, text) = status(Some(&own));
    assert!(right && text.contains("2 executors"), "{text}");
    for wrong in [Some(&*other), None] {
        let (right, text) = status(wrong);
        assert!(!right && text.contains("401"), "{text}");
    }
    assert_eq!(
        outcome(&cluster.address(), query(6), &[]).await,
        Outcome::Right
    );
}

/// What comes to a port that is no request, or says nothing, stops neither the endpoint nor the jobs.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_silence_harm_nobody() {
    let cluster = start(&["--budget=256MiB"], &[]).await;
    let all = cluster.read().await.unwrap();
    let addresses: Vec<_> = all
        .iter()
        .map(|one| one.told.status.address.clone())
        .collect();
    let mut silent = Vec::new();
    for address in addresses.iter().chain([&cluster.status_address()]) {
        for _ in 0..40 {
            silent.push(TcpStream::connect(address).unwrap());
        }
        let mut garbage = TcpStream::connect(address).unwrap();
        garbage.write_all(&[0; 100_000]).ok();
        let mut answer = Vec::new();
        garbage.read_to_end(&mut answer).ok();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }
    let address = cluster.status_address();
    let post = |body: &'static str| {
        let address = address.clone();
        async move {
            let method = "POST".parse().unwrap();
            let body = body.as_bytes().to_vec();
            arrow_memory_ballista::request(&address, method, "/report", None, body).await
        }
    };
    assert!(post("{").await.unwrap_err().contains("400"));
    let stranger = r#"{"executor":"x","address":"y","limit":null,"allocated":0,"peak":0,"task_minimum":0,"running":0,
        "waiting":0,"waited":0,"refused":0,"handed_back":0,"resident":null,"resident_peak":null}"#;
    assert!(post(stranger).await.unwrap_err().contains("404"));
    assert_eq!(
        outcome(&cluster.address(), query(6), &[]).await,
        Outcome::Right
    );
    assert_eq!(cluster.read().await.unwrap().len(), 2);
    for address in addresses {
        let get = "GET".parse().unwrap();
        let page = arrow_memory_ballista::request(&address, get, "/metrics", None, Vec::new());
        let page = String::from_utf8(page.await.unwrap().to_vec()).unwrap();
        assert!(page.contains("arrow_memory_tasks_running 0"), "{page}");
    }
}
