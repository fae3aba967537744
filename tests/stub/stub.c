/* A network without hops, to measure what comes before it: a SOCKS proxy and a node of Phantom's, whose every connection leads
 * to one port of this machine. Both carry by the same loop.
 *
 *   stub SOCKS_PORT NODE_SOCKET TARGET_PORT      prints a line when both are there */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { OPEN = 1, NAME = 4, JOINED = 7, VERDICT = 16, NAMED = 17, LONGEST = 70000, ROOM = 1 << 16 };

enum kind { SOCKS_LISTENER, NODE_LISTENER, SOCKS, NODE, CARRIED };

struct end {
    enum kind kind;
    int fd;
    int step;                   /* of a greeting, or whether a conversation speaks frames */
    struct end *other;          /* of a carried connection */
    int left;                   /* bytes of a frame that have come */
    unsigned char *frame;       /* of a conversation */
    int fds[64], some;          /* descriptors that came with frames that have not */
};

static int epoll, target;

static void need(int good, const char *what) {
    if (good) return;
    perror(what);
    exit(1);
}

static struct end *watch(enum kind kind, int fd) {
    struct end *end = calloc(1, sizeof *end);
    need(end != NULL, "memory");
    end->kind = kind;
    end->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = end};
    need(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll");
    return end;
}

/* Closing is not enough: as long as whoever gave it has it, too, it would go on to be told of. */
static void over(struct end *end) {
    epoll_ctl(epoll, EPOLL_CTL_DEL, end->fd, NULL);
    close(end->fd);
    free(end->frame);
    free(end);
}

static int to_target(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(target), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    need(connect(s, (void *)&to, sizeof to) == 0, "the target");
    return s;
}

static void put(int fd, const void *bytes, size_t length) {
    for (const char *at = bytes; length;) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
        if (sent <= 0) return; /* its end will be read */
        at += sent;
        length -= sent;
    }
}

static void couple(struct end *first, int fd) {
    struct end *second = watch(CARRIED, fd);
    first->kind = CARRIED;
    first->other = second;
    second->other = first;
}

static void carry(struct end *end) {
    static char bytes[ROOM];
    ssize_t length = recv(end->fd, bytes, sizeof bytes, 0);
    if (length > 0) return put(end->other->fd, bytes, length);
    /* Both directions end at once: the programs that are measured wait for no more. */
    over(end->other);
    over(end);
}

static void greet(struct end *end) {
    unsigned char bytes[600];
    ssize_t length = recv(end->fd, bytes, sizeof bytes, 0);
    if (length <= 0) return over(end);
    if (end->step++ == 0) return put(end->fd, "\5\0", 2);
    couple(end, to_target());
    put(end->fd, "\5\0\0\1\0\0\0\0\0\0", 10);
}

static void answer(struct end *end, const void *bytes, uint32_t length) {
    static char whole[4 + ROOM];
    uint32_t prefix = htonl(length);
    memcpy(whole, &prefix, 4);
    memcpy(whole + 4, bytes, length);
    put(end->fd, whole, 4 + length);
}

/* Connections that were accepted, until the program's end of them comes. */
static struct { unsigned char id[4]; int there; } accepted[4096];
static int waiting;

/* The circle, the address and the port are of no concern to a network of one party. */
static void open_for(struct end *end, const unsigned char *frame) {
    need(waiting < 4096, "many connections");
    memcpy(accepted[waiting].id, frame + 1, 4);
    accepted[waiting++].there = to_target();
    unsigned char verdict[6] = {VERDICT};
    memcpy(verdict + 1, frame + 1, 4);
    answer(end, verdict, sizeof verdict);
}

static void join(struct end *end, const unsigned char *frame) {
    int which = 0, fd = -1, one = 1;
    while (which < waiting && memcmp(accepted[which].id, frame + 1, 4)) which++;
    need(which < waiting, "what was not opened");
    int there = accepted[which].there;
    accepted[which] = accepted[--waiting];
    if (frame[5]) {
        close(there);
        return;
    }
    need(end->some > 0, "a program's socket");
    fd = end->fds[0];
    memmove(end->fds, end->fds + 1, --end->some * sizeof fd);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    couple(watch(CARRIED, fd), there);
}

static void one_frame(struct end *end, const unsigned char *frame, int length) {
    static const char hello[] = "{\"reply\":\"hello\",\"version\":%d,\"software\":\"stub\"}", run[] = "{\"reply\":\"run\",\"address\":\"fc00::1\",\"name\":null}";
    if (end->step == 2) {
        if (frame[0] == OPEN) open_for(end, frame);
        if (frame[0] == JOINED) join(end, frame);
        if (frame[0] == NAME) {
            unsigned char named[] = {NAMED, 0, 0, 0, 0, 4, 0xfc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 127, 192, 0, 9};
            memcpy(named + 1, frame + 1, 4);
            answer(end, named, sizeof named);
        }
        return;
    }
    char said[100];
    int version = 0;
    const char *at = memmem(frame, length, "\"version\":", 10);
    if (at) version = atoi(at + 10);
    if (end->step++ == 0) {
        /* What it shows to say whence it comes. */
        while (end->some) close(end->fds[--end->some]);
        answer(end, said, snprintf(said, sizeof said, hello, version));
    } else {
        answer(end, run, sizeof run - 1);
    }
}

static void converse(struct end *end) {
    char space[CMSG_SPACE(sizeof end->fds)];
    struct iovec part = {end->frame + end->left, LONGEST - end->left};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    ssize_t more = recvmsg(end->fd, &message, MSG_CMSG_CLOEXEC);
    if (more <= 0) return over(end);
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        int count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        need(end->some + count <= 64, "descriptors");
        memcpy(end->fds + end->some, CMSG_DATA(head), count * sizeof(int));
        end->some += count;
    }
    end->left += more;
    uint32_t length;
    while (end->left >= 4 && (memcpy(&length, end->frame, 4), length = ntohl(length), end->left >= (int)length + 4)) {
        one_frame(end, end->frame + 4, length);
        end->left -= length + 4;
        memmove(end->frame, end->frame + 4 + length, end->left);
    }
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    struct rlimit many = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &many);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    target = atoi(arguments[3]);
    int one = 1, socks = socket(AF_INET, SOCK_STREAM, 0), node = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    snprintf(place.sun_path, sizeof place.sun_path, "%s", arguments[2]);
    setsockopt(socks, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    need(bind(socks, (void *)&at, sizeof at) == 0 && listen(socks, 512) == 0, arguments[1]);
    need(bind(node, (void *)&place, sizeof place) == 0 && listen(node, 64) == 0, arguments[2]);
    watch(SOCKS_LISTENER, socks);
    watch(NODE_LISTENER, node);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, -1) != 1) continue;
        struct end *end = event.data.ptr;
        switch (end->kind) {
            case SOCKS_LISTENER: {
                int s = accept(end->fd, NULL, NULL);
                setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                watch(SOCKS, s);
                break;
            }
            case NODE_LISTENER: {
                struct end *node = watch(NODE, accept(end->fd, NULL, NULL));
                need((node->frame = malloc(LONGEST)) != NULL, "memory");
                break;
            }
            case SOCKS: greet(end); break;
            case NODE: converse(end); break;
            case CARRIED: carry(end); break;
        }
    }
}
