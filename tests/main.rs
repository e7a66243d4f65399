//! Every test that needs more than one module, in one binary: it links once.
mod cli;
mod support;
