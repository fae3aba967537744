/* What goes through a connection, and how it ends. */
#include "case.h"

CASE(half_close) {
    int s = connected(4, COUNT);
    told("send", send(s, "abc", 3, 0));
    told("shutdown", shutdown(s, SHUT_WR));
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
    read_all(s);
}

CASE(the_other_side_half_closes) {
    int s = connected(4, HALF);
    read_all(s);
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
    wait_for(s, POLLIN | POLLOUT | POLLRDHUP, LONG);
    peer(s);
    told("shutdown", shutdown(s, SHUT_WR));
}

CASE(shutdown_for_reading) {
    int s = connected(4, ECHO);
    told("shutdown", shutdown(s, SHUT_RD));
    read_all(s);
    wait_for(s, POLLIN | POLLRDHUP, SHORT);
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
    peer(s);
}

CASE(shutdown_of_both) {
    int s = connected(4, MUTE);
    told("shutdown", shutdown(s, SHUT_RDWR));
    read_all(s);
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
    struct pollfd asked = {s, POLLIN | POLLOUT | POLLRDHUP, 0};
    poll(&asked, 1, 0);
    events("poll", asked.revents);
}

CASE(shutdown_of_what_is_not_connected) {
    told("v4", shutdown(stream(4), SHUT_WR));
    told("v6", shutdown(stream(6), SHUT_RDWR));
    told("how", shutdown(connected(4, ECHO), 9));
    told("descriptor", shutdown(77, SHUT_WR));
    told("no socket", shutdown(0, SHUT_WR));
}

CASE(the_other_side_closes) {
    int s = connected(4, CLOSING);
    wait_for(s, POLLIN, LONG);
    read_all(s);
    /* It cannot take what is written, and says so. */
    send(s, "x", 1, MSG_NOSIGNAL);
    wait_for(s, 0, LONG);
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
    read_all(s);
}

CASE(the_other_side_resets) {
    int s = connected(4, RESET);
    char got;
    wait_for_event(s, POLLIN, POLLHUP);
    told("read", read(s, &got, 1));
    told("read", read(s, &got, 1));
    told("send", send(s, "x", 1, MSG_NOSIGNAL));
    socket_error(s);
    peer(s);
}

CASE(a_reset_is_an_error_once) {
    int s = connected(4, RESET);
    wait_for(s, 0, LONG);
    socket_error(s);
    socket_error(s);
    read_all(s);
}

static volatile sig_atomic_t pipes;
static void piped(int number) { pipes += number == SIGPIPE; }

CASE(writing_to_nobody_is_a_signal) {
    int s = connected(4, ECHO);
    shutdown(s, SHUT_WR);
    signal(SIGPIPE, piped);
    told("without", send(s, "x", 1, MSG_NOSIGNAL));
    say(" signals=%d", pipes);
    told("with", send(s, "x", 1, 0));
    say(" signals=%d", pipes);
    told("write", write(s, "x", 1));
    say(" signals=%d", pipes);
    signal(SIGPIPE, SIG_IGN);
    told("ignored", write(s, "x", 1));
}

static void writes(int s) {
    signal(SIGPIPE, SIG_DFL);
    if (write(s, "x", 1) < 0) told("write", -1);
}

CASE(the_signal_ends_who_does_not_know_it) {
    int s = connected(4, ECHO);
    shutdown(s, SHUT_WR);
    in_child(writes, s);
}

CASE(write_before_connect) {
    char got;
    told("send v4", send(stream(4), "x", 1, MSG_NOSIGNAL));
    told("send v6", send(stream(6), "x", 1, MSG_NOSIGNAL));
    told("recv", recv(stream(4), &got, 1, 0));
    struct place to = place_of(4, ECHO);
    told("sendto", sendto(stream(4), "x", 1, MSG_NOSIGNAL, (void *)&to.address, to.length));
}

CASE(an_address_beside_a_connection_does_not_count) {
    int s = connected(4, ECHO);
    char got[4];
    struct place to = place_of(4, MUTE), from = {.length = sizeof from.address};
    told("sendto", sendto(s, "abc", 3, 0, (void *)&to.address, to.length));
    told("recvfrom", recvfrom(s, got, 3, MSG_WAITALL, (void *)&from.address, &from.length));
    say_place("from", &from.address, from.length);
}

CASE(peeking) {
    int s = connected(4, HALF);
    char got[8] = {0};
    wait_for(s, POLLIN, LONG);
    told("peek", recv(s, got, 3, MSG_PEEK));
    told("peek", recv(s, got, 3, MSG_PEEK));
    told("recv", recv(s, got, 8, MSG_WAITALL));
    say(" \"%.6s\"", got);
    told("peek", recv(s, got, 8, MSG_PEEK));
}

CASE(waiting_for_all) {
    int s = connected(4, SLOW);
    char got[11] = {0};
    told("recv", recv(s, got, 10, MSG_WAITALL));
    say(" \"%s\"", got);
}

CASE(not_waiting_for_any) {
    int s = connected(4, ECHO);
    char got;
    told("recv", recv(s, &got, 1, MSG_DONTWAIT));
    fcntl(s, F_SETFL, O_NONBLOCK);
    told("read", read(s, &got, 1));
    told("errors", recv(s, &got, 1, MSG_ERRQUEUE));
    echo(s);
}

CASE(throwing_away) {
    int s = connected(4, HALF);
    char got[2];
    wait_for(s, POLLIN, LONG);
    told("recv", recv(s, NULL, 4, MSG_TRUNC | MSG_WAITALL));
    told("recv", recv(s, got, 2, MSG_WAITALL));
    say(" \"%.2s\"", got);
}

CASE(low_water) {
    int s = connected(4, SLOW), ten = 10, waiting = 0;
    told("set", setsockopt(s, SOL_SOCKET, SO_RCVLOWAT, &ten, sizeof ten));
    wait_for(s, POLLIN, LONG);
    told("ioctl", ioctl(s, FIONREAD, &waiting));
    say(" waiting=%d", waiting);
}

CASE(patience_of_reading) {
    int s = connected(4, ECHO);
    struct timeval patience = {0, 200000}, before, after;
    char got;
    told("set", setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
    gettimeofday(&before, NULL);
    told("recv", recv(s, &got, 1, 0));
    gettimeofday(&after, NULL);
    say(" %s", (after.tv_sec - before.tv_sec) * 1000000 + after.tv_usec - before.tv_usec >= 190000 ? "waited" : "hurried");
    echo(s);
}

static char much[1 << 16];

CASE(patience_of_writing) {
    int s = connected(4, MUTE);
    struct timeval patience = {0, 400000};
    told("set", setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
    long sent;
    int some = 0;
    while ((sent = send(s, much, sizeof much, MSG_NOSIGNAL)) > 0) some = 1;
    say(" some=%d", some);
    told("send", sent);
}

CASE(too_much_at_once) {
    int s = connected(4, MUTE);
    fcntl(s, F_SETFL, O_NONBLOCK);
    int pauses = 0;
    /* Until nothing has gone for a while. */
    for (struct pollfd asked = {s, POLLOUT, 0}; poll(&asked, 1, 500) == 1;) {
        if (send(s, much, sizeof much, MSG_NOSIGNAL) < 0 && errno != EAGAIN) { told("send", -1); return; }
        pauses++;
    }
    while (send(s, much, 1, MSG_NOSIGNAL) > 0) {}
    told("send", -1);
    say(" some=%d", pauses > 0);
    wait_for(s, POLLIN | POLLOUT, 0);
}

static unsigned char byte_at(long place) { return place * 7 + (place >> 8) * 13 + (place >> 16); }

CASE(much_there_and_back) {
    enum { SIZE = 4 << 20 };
    int s = connected(4, ECHO);
    fcntl(s, F_SETFL, O_NONBLOCK);
    long sent = 0, got = 0, wrong = 0;
    unsigned char part[50000];
    while (got < SIZE) {
        struct pollfd asked = {s, POLLIN | (sent < SIZE ? POLLOUT : 0), 0};
        if (poll(&asked, 1, LONG) != 1) break;
        if (asked.revents & POLLOUT && sent < SIZE) {
            int length = SIZE - sent < (long)sizeof part ? SIZE - sent : (long)sizeof part;
            for (int i = 0; i < length; i++) part[i] = byte_at(sent + i);
            long done = send(s, part, length, 0);
            if (done > 0) sent += done;
        }
        long more = recv(s, part, sizeof part, 0);
        for (int i = 0; i < more; i++) wrong += part[i] != byte_at(got + i);
        if (more == 0) break;
        if (more > 0) got += more;
    }
    say(" sent=%ld got=%ld wrong=%ld", sent, got, wrong);
}

CASE(in_many_parts) {
    int s = connected(6, ECHO);
    char a[3] = {0}, b[5] = {0};
    struct iovec out[] = {{"he", 2}, {"", 0}, {"llo!", 4}}, in[] = {{a, 2}, {b, 4}};
    told("writev", writev(s, out, 3));
    for (int have = 0, waited = 0; have < 6 && waited < LONG; waited++) {
        ioctl(s, FIONREAD, &have);
        usleep(1000);
    }
    told("readv", readv(s, in, 2));
    say(" \"%s\" \"%s\"", a, b);
}

CASE(by_messages) {
    int s = connected(4, ECHO);
    char a[3] = {0}, b[5] = {0};
    struct sockaddr_storage from;
    struct iovec out[] = {{"he", 2}, {"llo!", 4}}, in[] = {{a, 2}, {b, 4}};
    struct msghdr sent = {.msg_iov = out, .msg_iovlen = 2};
    struct msghdr got = {.msg_iov = in, .msg_iovlen = 2, .msg_name = &from, .msg_namelen = sizeof from};
    told("sendmsg", sendmsg(s, &sent, 0));
    told("recvmsg", recvmsg(s, &got, MSG_WAITALL));
    say(" \"%s\" \"%s\" flags=%d", a, b, got.msg_flags);
    say_place("from", &from, got.msg_namelen);
    struct mmsghdr several[2] = {{.msg_hdr = sent}, {.msg_hdr = sent}};
    told("sendmmsg", sendmmsg(s, several, 2, 0));
}

CASE(from_a_file) {
    int s = connected(4, COUNT);
    FILE *file = tmpfile();
    for (int i = 0; i < 100000; i++) fputc(byte_at(i), file);
    fflush(file);
    off_t at = 0;
    long sent = 0, more;
    while (sent < 100000 && (more = sendfile(s, fileno(file), &at, 100000 - sent)) > 0) sent += more;
    say(" sent=%ld", sent);
    shutdown(s, SHUT_WR);
    read_all(s);
}

CASE(by_pipes) {
    int s = connected(4, ECHO), out[2], in[2];
    char got[7] = {0};
    if (pipe(out) || pipe(in) || write(out[1], "hello!", 6) != 6) return;
    told("splice", splice(out[0], NULL, s, NULL, 6, 0));
    wait_for(s, POLLIN, LONG);
    long have = 0, more;
    while (have < 6 && (more = splice(s, NULL, in[1], NULL, 6 - have, 0)) > 0) have += more;
    told("read", read(in[0], got, 6));
    say(" \"%s\"", got);
}

CASE(how_much_waits) {
    int s = connected(4, HALF), waiting = -1, leaving = -1, urgent = -1;
    told("before", ioctl(stream(4), FIONREAD, &waiting));
    struct pollfd asked = {s, POLLRDHUP, 0};
    poll(&asked, 1, LONG);
    told("in", ioctl(s, FIONREAD, &waiting));
    told("out", ioctl(s, TIOCOUTQ, &leaving));
    told("urgent", ioctl(s, 0x8905 /* SIOCATMARK */, &urgent));
    say(" in=%d out=%d urgent=%d", waiting, leaving, urgent);
}

static volatile sig_atomic_t rung;
static void ring(int number) { rung += number == SIGALRM; }

CASE(a_signal_interrupts_reading) {
    int s = connected(4, ECHO);
    char got;
    struct sigaction action = {.sa_handler = ring};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 100000}, {0, 100000}}, never = {0};
    setitimer(ITIMER_REAL, &often, NULL);
    told("recv", recv(s, &got, 1, 0));
    struct pollfd asked = {s, POLLIN, 0};
    told("poll", poll(&asked, 1, LONG));
    setitimer(ITIMER_REAL, &never, NULL);
    echo(s);
}

CASE(linger) {
    int s = connected(4, MUTE);
    struct linger at_once = {1, 0}, said;
    socklen_t length = sizeof said;
    told("set", setsockopt(s, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
    getsockopt(s, SOL_SOCKET, SO_LINGER, &said, &length);
    say(" on=%d for=%d", said.l_onoff, said.l_linger);
    told("send", send(s, "x", 1, 0));
    told("close", close(s));
}

CASE(linger_until_all_has_gone) {
    int s = connected(4, COUNT);
    struct linger for_a_while = {1, 10};
    setsockopt(s, SOL_SOCKET, SO_LINGER, &for_a_while, sizeof for_a_while);
    told("send", send(s, much, sizeof much, 0));
    told("close", close(s));
}

CASE(urgent_data_can_be_sent) {
    int s = connected(4, MUTE);
    told("send", send(s, "x", 1, MSG_OOB));
    char got;
    told("recv", recv(s, &got, 1, MSG_OOB));
}

CASE(in_pieces_that_belong_together) {
    int s = connected(4, COUNT), one = 1, zero = 0;
    told("more", send(s, "ab", 2, MSG_MORE));
    told("rest", send(s, "cd", 2, 0));
    told("cork", setsockopt(s, IPPROTO_TCP, TCP_CORK, &one, sizeof one));
    told("send", send(s, "ef", 2, 0));
    told("uncork", setsockopt(s, IPPROTO_TCP, TCP_CORK, &zero, sizeof zero));
    shutdown(s, SHUT_WR);
    read_all(s);
}

CASE(two_threads_read_and_write) {
    enum { SIZE = 1 << 20 };
    int s = connected(4, ECHO);
    pid_t child = fork();
    if (child == 0) {
        for (long at = 0; at < SIZE;) {
            unsigned char part[10000];
            for (size_t i = 0; i < sizeof part; i++) part[i] = byte_at(at + i);
            long sent = send(s, part, SIZE - at < (long)sizeof part ? SIZE - at : (long)sizeof part, 0);
            if (sent <= 0) _exit(1);
            at += sent;
        }
        shutdown(s, SHUT_WR);
        _exit(0);
    }
    unsigned char part[10000];
    long got = 0, wrong = 0, more;
    while ((more = recv(s, part, sizeof part, 0)) > 0) {
        for (int i = 0; i < more; i++) wrong += part[i] != byte_at(got + i);
        got += more;
    }
    say(" got=%ld wrong=%ld", got, wrong);
    told("end", more);
}
