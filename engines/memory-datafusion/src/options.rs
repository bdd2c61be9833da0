//! What a [`DataFusionMemory`](crate::DataFusionMemory) counts, and how it shares.

use std::time::Duration;

/// Which bytes an operator is charged for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Charge {
    /// What the operator declares to DataFusion's pool. Batches are not looked at.
    Declared,
    /// What the operator declares. The batches that it holds are counted beside it, in reports only: no limit sees
    /// them.
    Observed,
    /// The larger of what the operator declares and what the batches that it holds take.
    #[default]
    Larger,
}

/// At which operators batches are counted. Without meaning for [`Charge::Declared`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Granularity {
    /// Where a batch enters an operator that keeps batches (sorts, joins, aggregates, windows, repartitioning), and
    /// where it leaves the plan. What is on its way between the others, usually one batch each, is not counted.
    #[default]
    Holders,
    /// Between any two operators.
    Operators,
}

/// How the operators of a query that can spill share what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// Who asks first gets it.
    #[default]
    Greedy,
    /// Each consumer that can spill and is active may have an equal part. One that is alone may have everything.
    Fair,
}

/// Whether a request of an operator that cannot spill waits for memory of other queries instead of being refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// It is refused at once.
    #[default]
    Never,
    /// It blocks its thread for at most that long, by [`tokio::task::block_in_place`]: so only on a runtime with several
    /// threads, and not in a `LocalSet`, where that panics. Meanwhile the other partitions that run in the same task do
    /// not go on. If queries wait for one another, one of them is refused.
    Block(Duration),
}

/// What becomes of a query that was refused memory by [`QueryMemory::collect`](crate::QueryMemory::collect) or
/// [`QueryMemory::execute_stream`](crate::QueryMemory::execute_stream).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnRefusal {
    /// It fails.
    #[default]
    Fail,
    /// It is planned once more, with sort-merge joins, which spill, and begins anew. Only queries with a join are repeated,
    /// and only if they write nothing and consist of DataFusion's own nodes. Their time is spent twice, and their tables are
    /// read twice: do not use this for tables that give their rows once, such as a pipe. The second plan has two partitions at
    /// least, needs less than the first one, and may be refused, too. The result is one that the query may have: without an
    /// `ORDER BY`, rows come in another order, `LIMIT` may choose others, and sums of floating-point numbers may differ in
    /// their last digits.
    PlanAgain,
}

/// The options of a tree of queries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) charge: Charge,
    pub(crate) granularity: Granularity,
    pub(crate) policy: Policy,
    /// The part of a limit that consumers that can spill leave to the others.
    pub(crate) headroom: f64,
    /// The part of a limit by which batches that exist already may pass it.
    pub(crate) overdraft: f64,
    pub(crate) wait: Wait,
    pub(crate) on_refusal: OnRefusal,
    pub(crate) query_limit: usize,
    /// The largest limit that `SET` may ask for.
    pub(crate) allow_set: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            charge: Charge::default(),
            granularity: Granularity::default(),
            policy: Policy::default(),
            headroom: 0.1,
            overdraft: 0.1,
            wait: Wait::default(),
            on_refusal: OnRefusal::default(),
            query_limit: usize::MAX,
            allow_set: None,
        }
    }
}

/// Returns a part of a number of bytes.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a limit need not be exact; `as` saturates"
)]
pub(crate) fn share(bytes: usize, of_one: f64) -> usize {
    (bytes as f64 * of_one) as usize
}
