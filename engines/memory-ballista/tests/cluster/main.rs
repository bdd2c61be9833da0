//! A scheduler and executors as processes on this machine, which run queries of TPC-H.

mod endpoint;
mod lost;
mod matrix;
mod shared;
mod support;
