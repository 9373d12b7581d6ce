//! The command as people run it: the real binary, its two lines, its exit code, and what it leaves behind.

mod accept_queue;
mod admin;
mod age;
mod bad_input;
mod command;
mod deadline;
mod events;
mod exhaustion;
mod grpc;
mod heads;
mod http1;
mod http2;
mod jobs;
mod leftovers;
mod orders;
mod play;
mod report;
mod running;
mod serve;
mod service;
mod signals;
mod tls;
mod under_load;
mod under_systemd;
mod upgrade;
mod verify;
