/* Datagrams among the program's own sockets. */
#include "case.h"

static int datagrams(int family) { return socket(family == 4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0); }

static void talk(const char *address, int family) {
    struct place at, from = {.length = sizeof from.address};
    int s = server(SOCK_DGRAM, address, &at), d = datagrams(family);
    char got[8] = {0};
    self(s);
    told("sendto", sendto(d, "hello!", 6, 0, (void *)&at.address, at.length));
    self(d);
    told("recvfrom", recvfrom(s, got, 8, 0, (void *)&from.address, &from.length));
    say_place("from", &from.address, from.length);
    told("answer", sendto(s, "abc", 3, 0, (void *)&from.address, from.length));
    told("connect", go(d, at));
    peer(d);
    self(d);
    told("recv", recv(d, got, 8, 0));
    told("send", send(d, "", 0, 0));
    told("recv", recv(s, got, 8, 0));
    told("again", go(d, at));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    told("disconnect", connect(d, &none, sizeof none));
    peer(d);
    told("send", send(d, "x", 1, 0));
}

CASE(own_datagrams_v4) { talk("127.0.0.1", 4); }
CASE(own_datagrams_v6) { talk("::1", 6); }

CASE(own_datagrams_to_nobody) {
    struct place at;
    close(server(SOCK_DGRAM, "127.0.0.1", &at));
    int d = datagrams(4);
    char got;
    told("connect", go(d, at));
    told("send", send(d, "x", 1, 0));
    wait_for(d, POLLIN, LONG);
    told("recv", recv(d, &got, 1, MSG_DONTWAIT));
    told("recv", recv(d, &got, 1, MSG_DONTWAIT));
    told("send", send(d, "x", 1, 0));
    wait_for(d, 0, LONG);
    socket_error(d);
    socket_error(d);
}

CASE(own_datagrams_only_of_the_peer) {
    struct place at, here;
    int s = server(SOCK_DGRAM, "127.0.0.1", &at), d = server(SOCK_DGRAM, "127.0.0.1", &here), other = datagrams(4);
    char got;
    go(d, at);
    told("other", sendto(other, "x", 1, 0, (void *)&here.address, here.length));
    told("recv", recv(d, &got, 1, MSG_DONTWAIT));
    told("peer", sendto(s, "x", 1, 0, (void *)&here.address, here.length));
    told("recv", recv(d, &got, 1, 0));
    told("elsewhere", sendto(d, "y", 1, 0, (void *)&here.address, here.length));
}

CASE(own_datagrams_cut_and_peeked) {
    struct place at;
    int s = server(SOCK_DGRAM, "127.0.0.1", &at), d = datagrams(4), waiting = 0;
    char got[8];
    sendto(d, "hello!", 6, 0, (void *)&at.address, at.length);
    told("peek", recv(s, got, 8, MSG_PEEK));
    ioctl(s, FIONREAD, &waiting);
    say(" waiting=%d", waiting);
    struct iovec part = {got, 2};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    told("recvmsg", recvmsg(s, &message, 0));
    say(" cut=%d", (message.msg_flags & MSG_TRUNC) != 0);
    sendto(d, "hello!", 6, 0, (void *)&at.address, at.length);
    told("length", recv(s, got, 2, MSG_TRUNC));
    told("none", recv(s, got, 2, MSG_DONTWAIT));
}

CASE(own_datagrams_in_one_call) {
    struct place at;
    int s = server(SOCK_DGRAM, "::1", &at), d = datagrams(6);
    struct iovec parts[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}};
    struct mmsghdr messages[3] = {0};
    for (int i = 0; i < 3; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_name = &at.address, .msg_namelen = at.length, .msg_iov = &parts[i], .msg_iovlen = 1};
    told("sendmmsg", sendmmsg(d, messages, 3, 0));
    char room[3][8];
    struct mmsghdr got[3] = {0};
    for (int i = 0; i < 3; i++) {
        parts[i] = (struct iovec){room[i], 8};
        got[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    told("recvmmsg", recvmmsg(s, got, 3, MSG_DONTWAIT, NULL));
    say(" %d %d %d", got[0].msg_len, got[1].msg_len, got[2].msg_len);
}

CASE(own_datagrams_by_message) {
    struct place at, from;
    int s = server(SOCK_DGRAM, "0.0.0.0", &at), d = datagrams(4), one = 1;
    ((struct sockaddr_in *)&at.address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    told("set", setsockopt(s, IPPROTO_IP, IP_PKTINFO, &one, sizeof one));
    struct iovec part = {"abc", 3};
    struct msghdr message = {.msg_name = &at.address, .msg_namelen = at.length, .msg_iov = &part, .msg_iovlen = 1};
    told("sendmsg", sendmsg(d, &message, 0));
    char got[8], space[200];
    part = (struct iovec){got, 8};
    message = (struct msghdr){.msg_name = &from.address, .msg_namelen = sizeof from.address, .msg_iov = &part, .msg_iovlen = 1,
                              .msg_control = space, .msg_controllen = sizeof space};
    told("recvmsg", recvmsg(s, &message, 0));
    say_place("from", &from.address, message.msg_namelen);
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head))
        if (head->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(head), sizeof info);
            say(" at=%s", inet_ntoa(info.ipi_addr));
        }
}

CASE(own_datagrams_say_what_is_wrong) {
    struct place at;
    static char much[70000];
    int s = server(SOCK_DGRAM, "127.0.0.1", &at), d = datagrams(4);
    told("no address", send(d, "x", 1, 0));
    told("much", sendto(d, much, sizeof much, 0, (void *)&at.address, at.length));
    told("most", sendto(d, much, 65507, 0, (void *)&at.address, at.length));
    told("recv", recv(s, much, sizeof much, 0));
    told("short address", sendto(d, "x", 1, 0, (void *)&at.address, 8));
    told("v4 on v6", sendto(datagrams(6), "x", 1, 0, (void *)&at.address, at.length));
    told("no data", sendto(d, NULL, 5, 0, (void *)&at.address, at.length));
    told("no place", sendto(d, "x", 1, 0, NULL, 16));
    told("bad place", sendto(d, "x", 1, 0, (void *)1, 16));
    told("descriptor", sendto(77, "x", 1, 0, (void *)&at.address, at.length));
    told("port 0", ({ ((struct sockaddr_in *)&at.address)->sin_port = 0; sendto(d, "x", 1, 0, (void *)&at.address, at.length); }));
    told("connect port 0", go(d, at));
    told("shutdown", shutdown(datagrams(4), SHUT_RDWR));
}

CASE(own_datagrams_wait) {
    struct place at;
    int s = server(SOCK_DGRAM | SOCK_NONBLOCK, "127.0.0.1", &at);
    char got;
    told("recv", recv(s, &got, 1, 0));
    wait_for(s, POLLIN | POLLOUT, 0);
    sendto(datagrams(4), "x", 1, 0, (void *)&at.address, at.length);
    wait_for(s, POLLIN, LONG);
    told("recv", recv(s, &got, 1, 0));
    fcntl(s, F_SETFL, 0);
    struct timeval patience = {0, 100000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    told("recv", recv(s, &got, 1, 0));
}

CASE(own_datagrams_of_shared_ports) {
    struct place at;
    int s = server(SOCK_DGRAM, "127.0.0.1", &at), one = 1;
    told("taken", bind(datagrams(4), (void *)&at.address, at.length));
    int d = datagrams(4);
    setsockopt(d, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    told("still", bind(d, (void *)&at.address, at.length));
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    told("shared", bind(d, (void *)&at.address, at.length));
}

static void child_sends(int d) { told("send", send(d, "x", 1, 0)); }

CASE(own_datagrams_of_a_child) {
    struct place at;
    int s = server(SOCK_DGRAM, "127.0.0.1", &at), d = datagrams(4);
    go(d, at);
    in_child(child_sends, d);
    char got;
    told("recv", recv(s, &got, 1, 0));
}
