/* Every way that a program has to send something out of this machine, each to a port of its own. Called with an address outside
 * and a word, which is also asked for as a name. Prints for each way the number of the error that it met, 0 for none.
 * It is built against glibc, statically too, and against musl. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif

static struct sockaddr_storage outside;
static socklen_t outside_length;
static int family;
static const char *word;
static pid_t parent;

static void to_port(int port) {
    if (family == AF_INET)
        ((struct sockaddr_in *)&outside)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)&outside)->sin6_port = htons(port);
}

static struct sockaddr *place(void) { return (struct sockaddr *)&outside; }

static int tcp_connect(void) { return connect(socket(family, SOCK_STREAM, 0), place(), outside_length); }

static int tcp_nonblocking(void) {
    int s = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0), error = 0;
    socklen_t length = sizeof error;
    if (connect(s, place(), outside_length) == 0) return 0;
    if (errno != EINPROGRESS) return -1;
    struct pollfd p = {s, POLLOUT, 0};
    if (poll(&p, 1, 300) == 0) return 0; /* it is on its way */
    getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &length);
    errno = error;
    return error ? -1 : 0;
}

static int tcp_fast_open_sendto(void) {
    return sendto(socket(family, SOCK_STREAM, 0), word, strlen(word), MSG_FASTOPEN, place(), outside_length);
}

static int send_message(int s, int flags) {
    struct iovec part = {(void *)word, strlen(word)};
    struct msghdr m = {.msg_name = place(), .msg_namelen = outside_length, .msg_iov = &part, .msg_iovlen = 1};
    return sendmsg(s, &m, flags);
}

static int tcp_fast_open_sendmsg(void) { return send_message(socket(family, SOCK_STREAM, 0), MSG_FASTOPEN); }

static int tcp_fast_open_connect(void) {
    int s = socket(family, SOCK_STREAM, 0), one = 1;
    setsockopt(s, IPPROTO_TCP, 30 /* TCP_FASTOPEN_CONNECT */, &one, sizeof one);
    if (connect(s, place(), outside_length)) return -1;
    return send(s, word, strlen(word), MSG_NOSIGNAL);
}

static int udp_sendto(void) {
    return sendto(socket(family, SOCK_DGRAM, 0), word, strlen(word), 0, place(), outside_length);
}

static int udp_connected(void) {
    int s = socket(family, SOCK_DGRAM, 0);
    if (connect(s, place(), outside_length)) return -1;
    return send(s, word, strlen(word), 0);
}

static int udp_sendmsg(void) { return send_message(socket(family, SOCK_DGRAM, 0), 0); }

static int udp_sendmmsg(void) {
    struct iovec part = {(void *)word, strlen(word)};
    struct mmsghdr m = {.msg_hdr = {.msg_name = place(), .msg_namelen = outside_length, .msg_iov = &part, .msg_iovlen = 1}};
    return sendmmsg(socket(family, SOCK_DGRAM, 0), &m, 1, 0);
}

/* Asks for a certain interface in the message. */
static int udp_packet_info(void) {
    char space[CMSG_SPACE(sizeof(struct in6_pktinfo))] = {0};
    struct iovec part = {(void *)word, strlen(word)};
    struct msghdr m = {.msg_name = place(), .msg_namelen = outside_length, .msg_iov = &part, .msg_iovlen = 1,
                       .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    unsigned index = if_nametoindex("out");
    if (family == AF_INET) {
        struct in_pktinfo info = {.ipi_ifindex = index};
        *c = (struct cmsghdr){CMSG_LEN(sizeof info), IPPROTO_IP, IP_PKTINFO};
        memcpy(CMSG_DATA(c), &info, sizeof info);
        m.msg_controllen = CMSG_SPACE(sizeof info);
    } else {
        struct in6_pktinfo info = {.ipi6_ifindex = index};
        *c = (struct cmsghdr){CMSG_LEN(sizeof info), IPPROTO_IPV6, IPV6_PKTINFO};
        memcpy(CMSG_DATA(c), &info, sizeof info);
    }
    return sendmsg(socket(family, SOCK_DGRAM, 0), &m, 0);
}

static int udp_other_device(void) {
    int s = socket(family, SOCK_DGRAM, 0);
    if (setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "out", 4)) return -1;
    return sendto(s, word, strlen(word), 0, place(), outside_length);
}

static int udp_no_device(void) {
    int s = socket(family, SOCK_DGRAM, 0);
    if (setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "", 0)) return -1;
    return sendto(s, word, strlen(word), 0, place(), outside_length);
}

static int udp_other_interface(void) {
    int s = socket(family, SOCK_DGRAM, 0), index = if_nametoindex("out");
    if (setsockopt(s, SOL_SOCKET, SO_BINDTOIFINDEX, &index, sizeof index)) return -1;
    return sendto(s, word, strlen(word), 0, place(), outside_length);
}

static int udp_broadcast(void) {
    struct sockaddr_in all = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {INADDR_BROADCAST}};
    int s = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
    setsockopt(s, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
    return sendto(s, word, strlen(word), 0, (struct sockaddr *)&all, sizeof all);
}

static int udp_multicast(void) {
    struct sockaddr_in group = {.sin_family = AF_INET, .sin_port = htons(5353)};
    inet_pton(AF_INET, "224.0.0.251", &group.sin_addr);
    struct ip_mreqn by = {.imr_ifindex = if_nametoindex("out")};
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &by, sizeof by);
    return sendto(s, word, strlen(word), 0, (struct sockaddr *)&group, sizeof group);
}

static int mptcp(void) {
    int s = socket(family, SOCK_STREAM, IPPROTO_MPTCP);
    return s < 0 ? -1 : connect(s, place(), outside_length);
}

static int icmp(void) {
    unsigned char echo[8] = {family == AF_INET ? 8 : 128};
    int s = socket(family, SOCK_DGRAM, family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    return s < 0 ? -1 : sendto(s, echo, sizeof echo, 0, place(), outside_length);
}

static int raw_ip(void) {
    int s = socket(family, SOCK_RAW, 253);
    to_port(0);
    return s < 0 ? -1 : sendto(s, word, strlen(word), 0, place(), outside_length);
}

static int packet(void) {
    struct { unsigned short family, protocol; int index; unsigned short type; unsigned char packet, length, address[8]; } to = {
        17, htons(0x0800), if_nametoindex("out"), 0, 0, 6, {2, 0, 0, 0, 0, 1}};
    int s = socket(17, SOCK_DGRAM, htons(0x0800));
    return s < 0 ? -1 : sendto(s, word, strlen(word), 0, (struct sockaddr *)&to, 20);
}

static long raw_call(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    if (result < 0) { errno = -result; return -1; }
    return result;
}

static int assembly_tcp(void) {
    int s = raw_call(SYS_socket, family, SOCK_STREAM, 0, 0, 0, 0);
    return s < 0 ? -1 : raw_call(SYS_connect, s, (long)&outside, outside_length, 0, 0, 0);
}

static int assembly_udp(void) {
    int s = raw_call(SYS_socket, family, SOCK_DGRAM, 0, 0, 0, 0);
    return s < 0 ? -1 : raw_call(SYS_sendto, s, (long)word, strlen(word), 0, (long)&outside, outside_length);
}

/* By the interrupt of 32-bit programs, whose calls have other numbers. */
static int old_interrupt(void) {
    long s;
    __asm__ volatile("int $0x80" : "=a"(s) : "a"(359L), "b"((long)family), "c"((long)SOCK_DGRAM), "d"(0L) : "memory", "r8", "r9", "r10", "r11");
    if (s < 0) { errno = -s; return -1; }
    return sendto(s, word, strlen(word), 0, place(), outside_length);
}

static int io_uring(void) {
    char parameters[256] = {0};
    int s = syscall(425, 4, parameters);
    return s < 0 ? -1 : (errno = EALREADY, -1); /* it may exist: then it could do anything */
}

static void *in_thread(void *result) {
    *(int *)result = udp_sendto();
    if (*(int *)result < 0) *(int *)result = -errno;
    return NULL;
}

static int thread(void) {
    int result;
    pthread_t t;
    pthread_create(&t, NULL, in_thread, &result);
    pthread_join(t, NULL);
    if (result < 0) { errno = -result; return -1; }
    return result;
}

static int of_child(pid_t child) {
    int status;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : ECANCELED;
    return -1;
}

static int fork_only(void) {
    pid_t child = fork();
    if (child == 0) _exit(udp_sendto() < 0 ? errno : 0);
    return of_child(child);
}

/* What the child of vfork does without exec, its parent's memory does, too. */
static int vfork_only(void) {
    static volatile int result;
    pid_t child = vfork();
    if (child == 0) {
        result = udp_sendto() < 0 ? errno : 0;
        _exit(0);
    }
    waitpid(child, NULL, 0);
    if (result) { errno = result; return -1; }
    return 0;
}

static int in_clone(void *result) {
    *(int *)result = udp_sendto() < 0 ? errno : 0;
    return 0;
}

/* Shares memory and descriptors, as a thread that no library knows. */
static int clone_only(void) {
    static char stack[1 << 16] __attribute__((aligned(16)));
    int result = 0;
    pid_t child = clone(in_clone, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, &result);
    if (child < 0) return -1;
    waitpid(child, NULL, 0);
    if (result) { errno = result; return -1; }
    return 0;
}

/* Into the network of whoever started us, if we may. */
static int namespace_of_parent(void) {
    char path[40];
    snprintf(path, sizeof path, "/proc/%d/ns/net", parent);
    int namespace = open(path, O_RDONLY);
    if (namespace < 0 || setns(namespace, CLONE_NEWNET)) return -1;
    return udp_sendto();
}

/* From the address of the interface that leads out. */
static int udp_from_outer_address(void) {
    int s = socket(family, SOCK_DGRAM, 0);
    struct sockaddr_in from4 = {.sin_family = AF_INET};
    struct sockaddr_in6 from6 = {.sin6_family = AF_INET6};
    inet_pton(AF_INET, "198.51.100.2", &from4.sin_addr);
    inet_pton(AF_INET6, "2001:db8::2", &from6.sin6_addr);
    if (family == AF_INET ? bind(s, (void *)&from4, sizeof from4) : bind(s, (void *)&from6, sizeof from6)) return -1;
    return sendto(s, word, strlen(word), 0, place(), outside_length);
}

static int other_protocol(int kind, int protocol) {
    int s = socket(family, kind, protocol);
    return s < 0 ? -1 : connect(s, place(), outside_length);
}

static int sctp(void) { return other_protocol(SOCK_STREAM, IPPROTO_SCTP); }
static int udp_lite(void) { return other_protocol(SOCK_DGRAM, IPPROTO_UDPLITE); }
static int dccp(void) { return other_protocol(6, IPPROTO_DCCP); }

/* Speaks TCP where the other side knows nothing better. */
static int smc(void) {
    int s = socket(43, SOCK_STREAM, family == AF_INET6);
    return s < 0 ? -1 : connect(s, place(), outside_length);
}

/* To the host of this virtual machine. */
static int vsock(void) {
    struct { unsigned short family, reserved; unsigned port, cid; unsigned char flags[4]; } to = {40, 0, 9, 2, {0}};
    int s = socket(40, SOCK_STREAM | SOCK_NONBLOCK, 0);
    return s < 0 ? -1 : connect(s, (void *)&to, sizeof to);
}

static char **itself;
enum { UDP_SENDTO = 5 };

static int spawn_without_environment(void) {
    char number[8], *nothing[] = {NULL}, *arguments[] = {itself[0], itself[1], itself[2], number, NULL};
    snprintf(number, sizeof number, "%d", UDP_SENDTO);
    pid_t child;
    int error = posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, nothing);
    if (error) { errno = error; return -1; }
    return of_child(child);
}

static int resolved(int error) {
    /* What is not in the network is not known. */
    if (error == 0) return 0;
    errno = ENOENT;
    return -1;
}

static int get_addr_info(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    return resolved(getaddrinfo(word, "80", &hints, &found));
}

static int get_addr_info_without_hints(void) {
    struct addrinfo *found;
    return resolved(getaddrinfo(word, NULL, NULL, &found));
}

static int get_name_info(void) {
    char host[256];
    return resolved(getnameinfo(place(), outside_length, host, sizeof host, NULL, 0, NI_NAMEREQD));
}

static int get_host_by_name(void) { return resolved(gethostbyname(word) == NULL); }


static const struct { const char *name; int (*run)(void); } ways[] = {
#define WAY(name) {#name, name}
    WAY(tcp_connect), WAY(tcp_nonblocking), WAY(tcp_fast_open_sendto), WAY(tcp_fast_open_sendmsg), WAY(tcp_fast_open_connect),
    WAY(udp_sendto), WAY(udp_connected), WAY(udp_sendmsg), WAY(udp_sendmmsg), WAY(udp_packet_info), WAY(udp_other_device),
    WAY(udp_no_device), WAY(udp_other_interface), WAY(udp_broadcast), WAY(udp_multicast), WAY(mptcp), WAY(icmp), WAY(raw_ip),
    WAY(packet), WAY(assembly_tcp), WAY(assembly_udp), WAY(old_interrupt), WAY(io_uring), WAY(thread), WAY(fork_only),
    WAY(vfork_only), WAY(clone_only), WAY(namespace_of_parent), WAY(udp_from_outer_address), WAY(sctp), WAY(udp_lite), WAY(dccp), WAY(smc), WAY(vsock),
    WAY(spawn_without_environment), WAY(get_addr_info), WAY(get_addr_info_without_hints), WAY(get_name_info),
    WAY(get_host_by_name),
};
enum { WAYS = sizeof ways / sizeof *ways };


/* Where a way leads, so that a packet tells by its port which one it took. */
enum { FIRST_PORT = 4000 };

static int run(int way) {
    to_port(FIRST_PORT + way);
    return ways[way].run();
}

/* In a process of its own, which has not long. */
static void try(int way) {
    int pipe_of_result[2], result = ETIME, status;
    if (pipe(pipe_of_result)) exit(2);
    pid_t child = fork();
    if (child == 0) {
        alarm(1);
        result = run(way) < 0 ? errno : 0;
        if (write(pipe_of_result[1], &result, sizeof result) < 0) exit(2);
        _exit(0);
    }
    close(pipe_of_result[1]);
    if (read(pipe_of_result[0], &result, sizeof result) < 0) exit(2);
    close(pipe_of_result[0]);
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) result = ENOSYS;
    printf("%s %d\n", ways[way].name, result);
    fflush(stdout);
}

int main(int count, char **arguments) {
    int only = count > 3 ? atoi(arguments[3]) : -1;
    if (count < 3) return 2;
    itself = arguments;
    parent = getppid();
    word = arguments[2];
    struct sockaddr_in *v4 = (void *)&outside;
    struct sockaddr_in6 *v6 = (void *)&outside;
    if (inet_pton(AF_INET, arguments[1], &v4->sin_addr) == 1) {
        family = v4->sin_family = AF_INET;
        outside_length = sizeof *v4;
    } else {
        memset(&outside, 0, sizeof outside);
        if (inet_pton(AF_INET6, arguments[1], &v6->sin6_addr) != 1) return 2;
        family = v6->sin6_family = AF_INET6;
        outside_length = sizeof *v6;
    }
    if (only >= 0) return run(only) < 0 ? errno : 0;
    for (int way = 0; way < WAYS; way++) try(way);
    return 0;
}
