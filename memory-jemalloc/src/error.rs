//! What can be wrong with a setting or the name of a statistic.

use arrow_memory_manager::__private::Escaped;

/// Why jemalloc's settings or statistics could not be reached. Nothing has changed.
///
/// Prints in one line, `{:?}` as well; `{:#?}` shows the fields.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JemallocError {
    /// The *caller's* fault: a decay time is -1 (never), 0 (at once) or milliseconds.
    #[error("decay time of {milliseconds} ms is below -1, which means never")]
    InvalidDecay {
        /// The time asked for, in milliseconds.
        milliseconds: isize,
    },
    /// The *caller's* fault: jemalloc has nothing of this name.
    #[error("jemalloc has no statistic called `{}`", Escaped(.name))]
    UnknownStatistic {
        /// The name asked for.
        name: String,
    },
    /// The *caller's* fault: the name stands for an action or a text, not for a number.
    #[error("`{}` of jemalloc is not a number that can be read", Escaped(.name))]
    NotANumber {
        /// The name asked for.
        name: String,
    },
    /// The *environment's*: jemalloc refused.
    #[error("jemalloc refused `{}` with error {code}", Escaped(.name))]
    Refused {
        /// What was read, written or done.
        name: String,
        /// The `errno` value that it answered with.
        code: i32,
    },
}

arrow_memory_manager::__debug_as_display!(enum JemallocError {
    InvalidDecay { milliseconds },
    UnknownStatistic { name },
    NotANumber { name },
    Refused { name, code },
});
