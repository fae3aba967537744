/* Connects so many times, one after another, exchanges a byte each time, and prints the median of how long that took and the
 * mean, in microseconds. With `serve` it is who answers.
 *
 *   knock ADDRESS PORT COUNT
 *   knock serve PORT */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

static int serve(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, (void *)&at, sizeof at) || listen(s, 512)) return 1;
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        char byte;
        int visitor = accept(s, NULL, NULL);
        if (recv(visitor, &byte, 1, 0) == 1) send(visitor, &byte, 1, MSG_NOSIGNAL);
        close(visitor);
    }
}

static int ascending(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

int main(int count, char **arguments) {
    if (count == 3 && !strcmp(arguments[1], "serve")) return serve(atoi(arguments[2]));
    if (count != 4) return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[2]))};
    if (inet_pton(AF_INET, arguments[1], &to.sin_addr) != 1) return 2;
    int times = atoi(arguments[3]);
    double *took = calloc(times + 1, sizeof *took), sum = 0;
    for (int i = 0; i < times; i++) {
        char byte = 'x';
        double begun = now();
        int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
        if (connect(s, (void *)&to, sizeof to)) { perror("connect"); return 1; }
        setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (send(s, &byte, 1, 0) != 1 || recv(s, &byte, 1, 0) != 1 || byte != 'x') { perror("echo"); return 1; }
        close(s);
        sum += took[i] = now() - begun;
    }
    qsort(took, times, sizeof *took, ascending);
    printf("%.1f %.1f\n", times ? took[times / 2] : 0, times ? sum / times : 0);
    free(took);
    return 0;
}
