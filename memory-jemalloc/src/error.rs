//! What can be wrong with a setting or the name of a statistic.

/// Why jemalloc's settings or statistics could not be reached. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JemallocError {
    /// The *caller's* fault: a decay time is -1 (never), 0 (at once) or milliseconds.
    #[error("decay time of {milliseconds} ms is below -1, which means never")]
    InvalidDecay {
        /// The time asked for, in milliseconds.
        milliseconds: isize,
    },
    /// The *caller's* fault: jemalloc has nothing of this name.
    #[error("jemalloc has no statistic called `{name}`")]
    UnknownStatistic {
        /// The name asked for.
        name: String,
    },
    /// The *caller's* fault: the name stands for an action or a text, not for a number.
    #[error("`{name}` of jemalloc is not a number that can be read")]
    NotANumber {
        /// The name asked for.
        name: String,
    },
    /// The *environment's*: jemalloc refused.
    #[error("jemalloc refused `{name}` with error {code}")]
    Refused {
        /// What was read, written or done.
        name: String,
        /// The `errno` value that it answered with.
        code: i32,
    },
}
