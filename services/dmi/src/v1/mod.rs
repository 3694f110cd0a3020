//! `skerry.dmi.v1`: one stream per mapper, and what people and programs on the node ask.

mod convert;
mod devices;
mod mappers;
mod told;

pub(crate) use devices::Shown;
pub(crate) use mappers::Connected;
