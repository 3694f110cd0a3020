//! House rules as tests: layers, tidy, ports.
