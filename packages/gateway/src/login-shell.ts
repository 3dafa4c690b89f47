/** A login shell: bash where the image has it. Found in the sandbox itself, on the way to it. */
export const LOGIN_SHELL =
  'if [ -x /bin/bash ]; then SHELL=/bin/bash; else SHELL=/bin/sh; fi; export SHELL; exec "$SHELL" -l'
