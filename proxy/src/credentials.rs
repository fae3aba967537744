//! User and password (RFC 1929) as the name of an isolation group.
//!
//! Written here and not taken from `fast-socks5` because that refuses an empty password and bytes that are no UTF-8, and
//! logs both fields. An empty pair, too, is a pair.

use std::io;

use fast_socks5::server::{AuthMethod, AuthMethodSuccessState, NoAuthentication, NoAuthenticationImpl};
use fast_socks5::server::{Socks5ServerProtocol, states};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Isolation;

const VERSION: u8 = 1;
const ACCEPTED: u8 = 0;

/// The methods of this server. A client that offers both means its credentials.
pub(crate) const METHODS: [Method; 2] = [Method::Password, Method::None];

#[derive(Clone, Copy)]
pub(crate) enum Method {
    Password,
    None,
}

pub(crate) enum Started<T> {
    Password(T),
    None(NoAuthenticationImpl<T>),
}

impl<T> AuthMethod<T> for Method {
    type StartingState = Started<T>;

    fn method_id(self) -> u8 {
        match self {
            Method::Password => fast_socks5::consts::SOCKS5_AUTH_METHOD_PASSWORD,
            Method::None => fast_socks5::consts::SOCKS5_AUTH_METHOD_NONE,
        }
    }

    fn new(self, inner: T) -> Started<T> {
        match self {
            Method::Password => Started::Password(inner),
            Method::None => Started::None(NoAuthentication.new(inner)),
        }
    }
}

struct Accepted<T>(T);

impl<T> AuthMethodSuccessState<T> for Accepted<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Started<T> {
    /// Reads the credentials, if that is the method, and accepts them whatever they are.
    pub(crate) async fn finish(
        self,
    ) -> io::Result<(Socks5ServerProtocol<T, states::Authenticated>, Isolation)> {
        match self {
            Started::None(state) => Ok((state.finish_auth(), Isolation::Default)),
            Started::Password(mut inner) => {
                let isolation = read_pair(&mut inner).await?;
                inner.write_all(&[VERSION, ACCEPTED]).await?;
                Ok((Accepted(inner).finish_auth(), isolation))
            }
        }
    }
}

async fn read_pair(inner: &mut (impl AsyncRead + Unpin)) -> io::Result<Isolation> {
    if inner.read_u8().await? != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown version of the password method"));
    }
    let user = read_field(inner).await?;
    let password = read_field(inner).await?;
    Ok(Isolation::Credentials { user, password })
}

async fn read_field(inner: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = inner.read_u8().await?;
    let mut field = vec![0; usize::from(length)];
    inner.read_exact(&mut field).await?;
    Ok(field)
}
