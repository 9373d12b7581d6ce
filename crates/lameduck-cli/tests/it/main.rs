//! The command as people run it: the real binary, its two lines, its exit code, and what it leaves behind.

mod accept_queue;
mod bad_input;
mod command;
mod heads;
mod http1;
mod http2;
mod running;
mod serve;
mod service;
mod upgrade;
