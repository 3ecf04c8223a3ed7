//! weft-policy-server: the REST API for policies.
