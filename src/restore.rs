//! Brings a database back as it was after one commit.

pub mod point;
