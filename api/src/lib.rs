//! Wire and stored types with their validation.
