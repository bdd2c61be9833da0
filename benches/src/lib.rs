//! What accounting costs.
