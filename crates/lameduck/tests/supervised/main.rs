//! Services under a service manager: what it is told, and the sockets it opens for them.

mod inherit;
mod notify;
mod process;
