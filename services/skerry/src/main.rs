//! The Skerry command line.

fn main() {}
