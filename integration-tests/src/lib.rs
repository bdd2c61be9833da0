//! Scenarios that run over every backend.
