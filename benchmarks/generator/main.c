/* load ROLE [NAME=VALUE...]: see load.h for the names. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static enum dialect dialect_named(const char *name) {
    static const char *const names[] = {[DIRECT] = "direct", [SOCKS5] = "socks5", [HTTP] = "http"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return (enum dialect)i;
    give_up("no dialect %s", name);
}

static void set(struct options *options, const char *name, const char *value) {
    if (strcmp(name, "dialect") == 0)
        options->dialect = dialect_named(value);
    else if (strcmp(name, "proxy") == 0)
        options->proxy = atoi(value);
    else if (strcmp(name, "target") == 0)
        options->target = atoi(value);
    else if (strcmp(name, "user") == 0)
        options->user = value;
    else if (strcmp(name, "password") == 0)
        options->password = value;
    else if (strcmp(name, "connections") == 0)
        options->connections = atoi(value);
    else if (strcmp(name, "count") == 0)
        options->count = strtoull(value, NULL, 10);
    else if (strcmp(name, "seconds") == 0)
        options->seconds = atof(value);
    else if (strcmp(name, "bytes") == 0)
        options->bytes = strtoull(value, NULL, 10);
    else if (strcmp(name, "block") == 0)
        options->block = strtoull(value, NULL, 10);
    else if (strcmp(name, "up") == 0)
        options->up = atoi(value) != 0;
    else if (strcmp(name, "compare") == 0)
        options->compare = atoi(value) != 0;
    else if (strcmp(name, "payload") == 0)
        options->payload = atoi(value);
    else if (strcmp(name, "flight") == 0)
        options->flight = atoi(value);
    else if (strcmp(name, "patience") == 0)
        options->patience = atof(value);
    else
        give_up("no option %s", name);
}

static void check(const char *role, const struct options *options) {
    if (options->connections < 1 || options->block < 1)
        give_up("connections and block are at least 1");
    if (options->user && (strlen(options->user) > 255 || strlen(options->password) > 255))
        give_up("user and password have at most 255 bytes");
    if (options->payload < 1 || options->payload > 1400)
        give_up("payload is from 1 to 1400");
    if (options->payload < 24 && strcmp(role, "udp") == 0)
        give_up("the payload of a datagram is at least 24");
    if (options->flight < 1 || options->flight > 1024)
        give_up("flight is from 1 to 1024");
}

/* As many descriptors as we may have, and more where that is allowed and our connections need it. */
static void raise_limit(int connections) {
    struct rlimit limit;
    rlim_t wanted = (rlim_t)connections + 200;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    struct rlimit raised = {.rlim_cur = wanted, .rlim_max = wanted};
    if (limit.rlim_max < wanted && setrlimit(RLIMIT_NOFILE, &raised) == 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int count, char **arguments) {
    static struct options options = {.password = "", .connections = 1, .seconds = 1,
                                     .block = 4 << 20, .payload = 64, .flight = 1,
                                     .patience = 10};
    const char *role = count > 1 ? arguments[1] : "";
    for (int i = 2; i < count; i++) {
        char *value = strchr(arguments[i], '=');
        if (!value)
            give_up("not NAME=VALUE: %s", arguments[i]);
        *value = '\0';
        set(&options, arguments[i], value + 1);
    }
    check(role, &options);
    raise_limit(options.connections);
    if (strcmp(role, "targets") == 0)
        run_targets();
    else if (strcmp(role, "short") == 0)
        run_short(&options);
    else if (strcmp(role, "bulk") == 0)
        run_bulk(&options);
    else if (strcmp(role, "ping") == 0)
        run_ping(&options);
    else if (strcmp(role, "idle") == 0)
        run_idle(&options);
    else if (strcmp(role, "udp") == 0)
        run_udp(&options);
    else
        give_up("no role %s", role);
    return 0;
}
