//! `skerry.dmi.v1`: one stream per mapper, and what people and programs on the node ask.

mod convert;
mod devices;
mod mappers;
mod questions;
mod told;

pub(crate) use devices::Shown;
pub(crate) use mappers::Connected;
pub(crate) use questions::Questions;
