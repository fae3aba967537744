//! From a message to its response: looks up, and says no in the right way.
//!
//! A name that exists without the wanted record is NODATA, one that does not exist NXDOMAIN, both with the SOA of their zone;
//! a look-up that fails is SERVFAIL; a question that is not about our zones is REFUSED or NXDOMAIN, as who looks up wants
//! it; one that wants a zone as a whole is REFUSED. What is no question is NOTIMP, what cannot be read FORMERR, and what nobody
//! could be told (too short, or itself a response) is left without a response.

use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{DNSClass, RData, RecordType},
};

use crate::{
    Elsewhere, Lookup, NoAnswer,
    message::{self, HEADER, Question},
    zone::{self, Place, What},
};

/// The largest UDP response that we send, and offer to send: one that no path fragments (the DNS flag day of 2020).
pub(crate) const UDP_RESPONSE: u16 = 1_232;
/// The largest one to who does not say what it takes (RFC 1035).
const PLAIN_UDP_RESPONSE: u16 = 512;

const IS_RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// What does not fit is cut off.
    Udp,
    /// All fits.
    Tcp,
}

/// Answers over somebody's look-ups.
#[derive(Debug)]
pub struct Answers<L> {
    lookup: L,
}

/// What a response says.
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    /// Of the name that was asked for.
    pub(crate) records: Vec<RData>,
    /// Of the zone, which has so many labels of that name.
    pub(crate) authority: Option<(usize, RData)>,
}

impl Answer {
    fn no(code: ResponseCode) -> Answer {
        Answer { code, records: Vec::new(), authority: None }
    }

    fn with_authority(code: ResponseCode, place: &Place) -> Answer {
        Answer { code, records: Vec::new(), authority: Some((place.zone_labels, zone::authority())) }
    }

    fn of(records: Vec<RData>, place: &Place) -> Answer {
        if records.is_empty() {
            return Answer::with_authority(ResponseCode::NoError, place);
        }
        Answer { code: ResponseCode::NoError, records, authority: None }
    }
}

impl<L: Lookup> Answers<L> {
    /// Asks there.
    pub fn new(lookup: L) -> Answers<L> {
        Answers { lookup }
    }

    /// The response to a message, if it gets one.
    pub fn respond(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let header = bytes.first_chunk::<HEADER>()?;
        let [_, _, flags, _, question_count @ .., _, _, _, _, _, _] = header;
        if flags & IS_RESPONSE != 0 {
            return None;
        }
        if flags & OPCODE != 0 {
            return Some(message::bare(header, ResponseCode::NotImp));
        }
        let malformed = || Some(message::bare(header, ResponseCode::FormErr));
        if *question_count != [0, 1] {
            return malformed();
        }
        let Some(question) = Question::read(bytes) else { return malformed() };
        let Some(edns) = read_edns(bytes, header) else { return malformed() };
        let answer = self.answer(&question, edns.as_ref());
        let most = match (transport, &edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => PLAIN_UDP_RESPONSE,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_UDP_RESPONSE, UDP_RESPONSE),
        };
        let response = message::write(header, &question, edns.as_ref(), &answer, false)?;
        if response.len() <= usize::from(most) {
            return Some(response);
        }
        message::write(header, &question, edns.as_ref(), &Answer::no(answer.code), true)
    }

    fn answer(&self, question: &Question, edns: Option<&Edns>) -> Answer {
        if edns.is_some_and(|edns| edns.version() != 0) {
            return Answer::no(ResponseCode::BADVERS);
        }
        let wanted = question.kind;
        if question.class != DNSClass::IN || matches!(wanted, RecordType::AXFR | RecordType::IXFR) {
            return Answer::no(ResponseCode::Refused);
        }
        if wanted == RecordType::OPT {
            return Answer::no(ResponseCode::FormErr);
        }
        let place = match Place::of(&question.labels) {
            Some(place) => place,
            None => match self.lookup.elsewhere(&question.labels) {
                Elsewhere::Nothing => Place::of_root(&question.labels),
                Elsewhere::Refused => return Answer::no(ResponseCode::Refused),
            },
        };
        let records = match &place.what {
            What::Apex => Ok(zone::apex_records(wanted)),
            What::Between => Ok(zone::any_records(wanted)),
            What::Nothing => Err(NoAnswer::NoSuchName),
            What::Host(host) => {
                let found = self.lookup.lookup(host, zone::wanted(wanted));
                found.map(|data| zone::host_records(wanted, data))
            }
            What::Address(address) => {
                self.lookup.reverse(*address).map(|host| zone::address_records(wanted, &host))
            }
        };
        match records {
            Ok(records) => Answer::of(records, &place),
            Err(NoAnswer::NoSuchName) => Answer::with_authority(ResponseCode::NXDomain, &place),
            Err(NoAnswer::Failed) => Answer::no(ResponseCode::ServFail),
        }
    }
}

/// What comes behind the question: of that, EDNS alone means something. Nothing if it cannot be read.
fn read_edns(bytes: &[u8], header: &[u8; HEADER]) -> Option<Option<Edns>> {
    let [.., a, b, c, d, e, f] = header;
    if [a, b, c, d, e, f].iter().all(|count| **count == 0) {
        return Some(None);
    }
    Message::from_vec(bytes).ok().map(|message| message.edns)
}
