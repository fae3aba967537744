//! Values of `phantom.toml`, by the rules that read them from the command line.

use std::{fmt::Display, net::SocketAddr, path::PathBuf};

use phantom_protocol::{address::ApName, node::Relay, wire::invitation::Invitation};
use serde::{Deserialize, Deserializer, de::Error};
use toml::Value;

use super::super::{
    HOPS,
    dns::{DnsWish, Kinds},
    end_point, giving,
    host::{self, Target},
    logs, number,
};
use crate::{confinement::Extent, outward::Ports};

/// A value, by the same rule that reads it from the command line. What is neither text nor number is as wrong as no text.
fn read<'de, D: Deserializer<'de>, T, E: Display>(
    deserializer: D,
    rule: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    let text = match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Integer(number) => number.to_string(),
        _ => String::new(),
    };
    rule(&text).map_err(D::Error::custom)
}

pub(super) fn invitation<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Invitation>, D::Error> {
    read(value, str::parse).map(Some)
}

pub(super) fn address<'de, D: Deserializer<'de>>(value: D) -> Result<Option<SocketAddr>, D::Error> {
    read(value, end_point).map(Some)
}

pub(super) fn relay<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Relay>, D::Error> {
    read(value, giving::relay).map(Some)
}

pub(super) fn dns<'de, D: Deserializer<'de>>(value: D) -> Result<Option<DnsWish>, D::Error> {
    read(value, str::parse).map(Some)
}

pub(super) fn kinds<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Kinds>, D::Error> {
    read(value, str::parse).map(Some)
}

pub(super) fn rate<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    read(value, giving::rate).map(Some)
}

pub(super) fn burst<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    read(value, giving::burst).map(Some)
}

pub(super) fn quota<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    read(value, giving::quota).map(Some)
}

pub(super) fn hops<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u8>, D::Error> {
    read(value, number(HOPS)).map(Some)
}

/// Nobody knows from where a node will be started.
pub(super) fn path<'de, D: Deserializer<'de>>(value: D) -> Result<Option<PathBuf>, D::Error> {
    let absolute = |text: &str| {
        Some(PathBuf::from(text))
            .filter(|path| path.is_absolute())
            .ok_or("it is a whole path, from the first /")
    };
    read(value, absolute).map(Some)
}

pub(super) fn user<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    read(value, |text| {
        Some(text.to_owned()).filter(|text| !text.is_empty()).ok_or("it is the name of a user")
    })
    .map(Some)
}

pub(super) fn confinement<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Extent>, D::Error> {
    match Value::deserialize(value)? {
        Value::Boolean(true) => Ok(Some(Extent::Usual)),
        Value::Boolean(false) => Ok(Some(Extent::Off)),
        Value::String(text) if text == "required" => Ok(Some(Extent::Required)),
        _ => Err(D::Error::custom("it is true, false or \"required\"")),
    }
}

pub(super) fn log<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    read(value, |text| logs::filter(text).map(|_| Some(text.to_owned())))
}

pub(super) fn port<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u16>, D::Error> {
    read(value, number(1..=u16::MAX)).map(Some)
}

pub(super) fn target<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Target>, D::Error> {
    read(value, str::parse).map(Some)
}

/// A port may be written as the number that it is.
pub(super) fn ports<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<Ports>, D::Error> {
    let values = Vec::<Value>::deserialize(value)?;
    values.into_iter().map(|value| read(value, str::parse).map_err(D::Error::custom)).collect()
}

pub(super) fn label<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    read(value, host::label)
}

pub(super) fn party<'de, D: Deserializer<'de>>(value: D) -> Result<ApName, D::Error> {
    read(value, str::parse)
}

pub(super) fn out_proxy<'de, D: Deserializer<'de>>(value: D) -> Result<Option<ApName>, D::Error> {
    read(value, str::parse).map(Some)
}

pub(super) fn usual_label() -> String {
    host::LABEL.to_owned()
}
