/* A library of trampolines: it has the functions of a CUDA library, and each looks the real one up at its first call.
 *
 * candle links CUDA's libraries dynamically, and a program linked so does not start where they are missing. Linked
 * with these archives instead, one program starts everywhere and asks for the libraries when it computes with them.
 *
 * cc -DLIBRARY='"libcublas.so.13"' -DSTATUS=1 -DSYMBOLS='"cublas.inc"' -c shim.c
 *   LIBRARY  the library's file
 *   STATUS   what a function returns if the library is missing: an error of its own status type
 *   SYMBOLS  a file of lines STATUS_FUNCTION(name) and TEXT_FUNCTION(name), the latter for those that return a string
 *
 * A slot holds where a function's trampoline jumps to: first to code that calls `resolve`, then to the function. A
 * trampoline leaves the stack and all argument registers as they were, so it fits every signature. Slots are written
 * whole; two threads that resolve the same one write the same address.
 */
#include <dlfcn.h>

#if !defined(__x86_64__) || !defined(__linux__)
#error "the trampolines are written for x86-64 Linux: link with the CUDA toolkit's own libraries instead"
#endif

struct slot {
  void *volatile target;
  const char *name;
  void *missing;
};

#define KEEP __attribute__((used, noinline, noclone))

KEEP static int missing_status(void) { return STATUS; }

KEEP static const char *missing_text(void) { return LIBRARY " is not on this machine"; }

/* The real function, or, as long as it is not found, one that fails: the library may be loaded later. */
KEEP static void *resolve(struct slot *slot) {
  static void *volatile library;
  if (!library) library = dlopen(LIBRARY, RTLD_LAZY);
  void *target = library ? dlsym(library, slot->name) : 0;
  if (!target) return slot->missing;
  slot->target = target;
  return target;
}

/* Saves what may hold arguments (seven registers and xmm0-7; rax counts the latter for variadic functions), which
 * also brings the stack to a multiple of 16. */
__asm__(
    ".text\n"
    "first_call:\n"
    "  pushq %rdi\n  pushq %rsi\n  pushq %rdx\n  pushq %rcx\n  pushq %r8\n  pushq %r9\n  pushq %rax\n"
    "  subq $128, %rsp\n"
    "  movups %xmm0, (%rsp)\n  movups %xmm1, 16(%rsp)\n  movups %xmm2, 32(%rsp)\n  movups %xmm3, 48(%rsp)\n"
    "  movups %xmm4, 64(%rsp)\n  movups %xmm5, 80(%rsp)\n  movups %xmm6, 96(%rsp)\n  movups %xmm7, 112(%rsp)\n"
    "  movq %r11, %rdi\n"
    "  call resolve\n"
    "  movq %rax, %r11\n"
    "  movups (%rsp), %xmm0\n  movups 16(%rsp), %xmm1\n  movups 32(%rsp), %xmm2\n  movups 48(%rsp), %xmm3\n"
    "  movups 64(%rsp), %xmm4\n  movups 80(%rsp), %xmm5\n  movups 96(%rsp), %xmm6\n  movups 112(%rsp), %xmm7\n"
    "  addq $128, %rsp\n"
    "  popq %rax\n  popq %r9\n  popq %r8\n  popq %rcx\n  popq %rdx\n  popq %rsi\n  popq %rdi\n"
    "  jmp *%r11\n"

    ".macro trampoline name missing\n"
    "  .section .rodata.str1.1, \"aMS\", @progbits, 1\n"
    "7: .asciz \"\\name\"\n"
    "  .data\n"
    "  .balign 8\n"
    "8: .quad 9f, 7b, \\missing\n"
    "  .text\n"
    "  .balign 16\n"
    "  .globl \\name\n"
    "  .type \\name, @function\n"
    "\\name:\n"
    "  endbr64\n"
    "  jmp *8b(%rip)\n"
    "9: endbr64\n"
    "  leaq 8b(%rip), %r11\n"
    "  jmp first_call\n"
    "  .size \\name, . - \\name\n"
    ".endm\n");

#define STATUS_FUNCTION(name) __asm__("trampoline " #name " missing_status\n");
#define TEXT_FUNCTION(name) __asm__("trampoline " #name " missing_text\n");
#include SYMBOLS
__asm__(".text\n");
