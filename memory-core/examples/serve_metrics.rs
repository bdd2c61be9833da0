//! Serves the metrics of a tree to Prometheus.
//!
//! ```sh
//! cargo run -p arrow-memory-core --example serve_metrics -- 127.0.0.1:9184
//! curl http://127.0.0.1:9184/metrics
//! ```
//!
//! The recorder is that of `metrics-exporter-prometheus`, without its HTTP server: a page is one string,
//! which std can serve. The second argument is the number of requests after which the program ends.

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use arrow_memory_core::{MetricsExporter, Peaks, RootAllocator};
use arrow_memory_system as _;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let requests = arguments
        .next()
        .map_or(Ok(usize::MAX), |count| count.parse())?;
    let handle = PrometheusBuilder::new().install_recorder()?;

    // This part stands for a query engine.
    let root = RootAllocator::builder()
        .name("server")
        .limit(1 << 30)
        .statistics(true)
        .build()?;
    // Each query has its own name, and all queries share the series of their group.
    let query = root
        .child("query-7")
        .group("query")
        .reservation(1 << 20)
        .limit(1 << 24)
        .build()?;
    let _columns = [query.buffer(1 << 21)?, query.buffer(4096)?];
    assert!(query.buffer(1 << 25).is_err(), "above the query's limit");

    // Exports series for the server, its groups, and one level of operators below them.
    let mut exporter = MetricsExporter::new(&root)
        .peaks(Peaks::OfEpoch)
        .max_depth(2);
    let listener = TcpListener::bind(address)?;
    println!("http://{}/metrics", listener.local_addr()?);
    for stream in listener.incoming().take(requests) {
        exporter.export();
        // The server continues if a client disconnects.
        if let Err(error) = answer(stream?, &handle) {
            eprintln!("{error}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, metrics: &PrometheusHandle) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut request)?;
    // Reads the headers, up to the empty line.
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let (status, body) = if request.starts_with("GET /metrics ") {
        ("200 OK", metrics.render())
    } else {
        ("404 Not Found", String::new())
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}
