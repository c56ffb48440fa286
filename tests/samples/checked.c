/* The macros of checks.h: they name file, line and condition. */
#include "checks.h"
#include <stdio.h>
static int evaluated = 0;
static int holds(int n) { evaluated++; return n < 3; }
int main(int argc, char **argv) {
    char text[8] = {0};
    (void)argv;
    ft_assert(holds(argc - 1));
    ft_set_readable_end(text + 4);
    ft_assert_readable(text, argc > 2 ? 5 : 4);
    printf("%d\n", evaluated);
    return 0;
}
