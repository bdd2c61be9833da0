//! The backend on the platform's allocator.
