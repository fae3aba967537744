//! Questions and responses in bytes (RFC 1035 §4, RFC 6891).
//!
//! A question is echoed as it came, so that its case is kept, and all names in front of records point into it.

use hickory_proto::{
    op::{Edns, ResponseCode},
    rr::{DNSClass, RData, RecordType},
    serialize::binary::{BinEncodable, BinEncoder},
};

use crate::{
    answer::{Answer, UDP_RESPONSE},
    zone,
};

/// Bytes in front of the question.
pub(crate) const HEADER: usize = 12;
/// Of a name, with the length of each label.
const LONGEST_NAME: usize = 255;
const LONGEST_LABEL: u8 = 63;

const IS_RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const CHECKING_DISABLED: u8 = 0x10;
const POINTER: u16 = 0xc000;

/// What a message asks.
pub(crate) struct Question<'m> {
    /// From the left.
    pub(crate) labels: Vec<&'m [u8]>,
    pub(crate) kind: RecordType,
    pub(crate) class: DNSClass,
    /// All of it, as it came.
    bytes: &'m [u8],
}

impl<'m> Question<'m> {
    /// The first question of a message. Its name stands whole in it: there is nothing before it that it could point to.
    pub(crate) fn read(message: &'m [u8]) -> Option<Question<'m>> {
        let all = message.get(HEADER..)?;
        let (mut labels, mut rest) = (Vec::with_capacity(8), all);
        loop {
            let (length, behind) = rest.split_first()?;
            if *length > LONGEST_LABEL || all.len() - behind.len() > LONGEST_NAME {
                return None;
            }
            if *length == 0 {
                rest = behind;
                break;
            }
            let (label, behind) = behind.split_at_checked(usize::from(*length))?;
            labels.push(label);
            rest = behind;
        }
        let ([kind_high, kind_low, class_high, class_low], behind) = rest.split_first_chunk::<4>()?;
        let bytes = all.get(..all.len() - behind.len())?;
        let kind = RecordType::from(u16::from_be_bytes([*kind_high, *kind_low]));
        let class = DNSClass::from(u16::from_be_bytes([*class_high, *class_low]));
        Some(Question { labels, kind, class, bytes })
    }

    /// A pointer to the last so many labels of the name.
    fn pointer(&self, last: usize) -> Option<[u8; 2]> {
        let before = self.labels.len().checked_sub(last)?;
        let skipped: usize = self.labels.iter().take(before).map(|label| 1 + label.len()).sum();
        let offset = u16::try_from(HEADER + skipped).ok()?;
        Some((POINTER | offset).to_be_bytes())
    }
}

/// A response of a header alone: nobody knows what the rest of such a message means.
pub(crate) fn bare(asked: &[u8; HEADER], code: ResponseCode) -> Vec<u8> {
    let [id_high, id_low, flags, ..] = asked;
    let mut response =
        vec![*id_high, *id_low, IS_RESPONSE | flags & (OPCODE | RECURSION_DESIRED), code.low()];
    response.resize(HEADER, 0);
    response
}

/// A whole response. Nothing if it would be longer than any message.
pub(crate) fn write(
    asked: &[u8; HEADER],
    question: &Question,
    edns: Option<&Edns>,
    answer: &Answer,
    is_cut: bool,
) -> Option<Vec<u8>> {
    let [id_high, id_low, flags, more_flags, ..] = asked;
    let is_authority = matches!(answer.code, ResponseCode::NoError | ResponseCode::NXDomain);
    let mut first = IS_RESPONSE | flags & RECURSION_DESIRED;
    first |= if is_authority { AUTHORITATIVE } else { 0 };
    first |= if is_cut { TRUNCATED } else { 0 };
    let answers = u16::try_from(answer.records.len()).ok()?.to_be_bytes();
    let mut response = Vec::with_capacity(256);
    response.extend([*id_high, *id_low, first, more_flags & CHECKING_DISABLED | answer.code.low(), 0, 1]);
    response.extend(answers);
    response.extend([0, u8::from(answer.authority.is_some()), 0, u8::from(edns.is_some())]);
    response.extend_from_slice(question.bytes);
    for data in &answer.records {
        write_record(&mut response, question.pointer(question.labels.len())?, zone::TTL, data)?;
    }
    if let Some((zone_labels, data)) = &answer.authority {
        write_record(&mut response, question.pointer(*zone_labels)?, zone::NEGATIVE_TTL, data)?;
    }
    if let Some(edns) = edns {
        write_edns(&mut response, edns, answer.code);
    }
    (response.len() <= usize::from(u16::MAX)).then_some(response)
}

fn write_record(response: &mut Vec<u8>, name: [u8; 2], ttl: u32, data: &RData) -> Option<()> {
    let mut bytes = Vec::with_capacity(64);
    // By itself, so nothing in it points to anything but itself; no data of ours has two names that share an end.
    data.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    response.extend(name);
    response.extend(u16::from(data.record_type()).to_be_bytes());
    response.extend(u16::from(DNSClass::IN).to_be_bytes());
    response.extend(ttl.to_be_bytes());
    response.extend(u16::try_from(bytes.len()).ok()?.to_be_bytes());
    response.extend(bytes);
    Some(())
}

/// EDNS in the question asks for EDNS in the response: ours is version 0, without options, and keeps the DO bit.
fn write_edns(response: &mut Vec<u8>, asked: &Edns, code: ResponseCode) {
    response.push(0);
    response.extend(u16::from(RecordType::OPT).to_be_bytes());
    response.extend(UDP_RESPONSE.to_be_bytes());
    let dnssec_ok = u8::from(asked.flags().dnssec_ok) << 7;
    response.extend([code.high(), 0, dnssec_ok, 0, 0, 0]);
}
