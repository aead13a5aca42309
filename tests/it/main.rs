//! The integration suites, one module each.
