//! Raw memory: the bookkeeping slots and where they come from.

pub(crate) mod count;
pub(crate) mod pool;
pub(crate) mod release;
pub(crate) mod slot;
