/* A small HTTP/1.1 server with kept-alive connections, one thread, epoll: about as fast as a server can be, so that what
 * stands before it shows. Every request gets the same answer of 64 bytes. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char answer[] = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 64\r\n\r\n"
                             "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";

int main(int argc, char **argv) {
  int listener = socket(AF_INET, SOCK_STREAM, 0), poller = epoll_create1(0), one = 1;
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "8000")) };
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 512) < 0) return perror("listen"), 1;
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){ .events = EPOLLIN, .data.fd = listener });
  printf("listening\n");
  fflush(stdout);
  for (;;) {
    struct epoll_event events[64];
    int count = epoll_wait(poller, events, 64, -1);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        int accepted = accept(listener, NULL, NULL);
        setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poller, EPOLL_CTL_ADD, accepted, &(struct epoll_event){ .events = EPOLLIN, .data.fd = accepted });
        continue;
      }
      char request[16384];
      ssize_t n = read(fd, request, sizeof request - 1);
      if (n <= 0) {
        close(fd);
        continue;
      }
      request[n] = 0;
      for (char *at = request; (at = strstr(at, "\r\n\r\n")) != NULL; at += 4)
        if (write(fd, answer, sizeof answer - 1) < 0) break;
    }
  }
}
