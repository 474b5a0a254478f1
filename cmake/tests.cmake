# How a test is declared.
#
# wuneng_test(NAME COMMAND arguments...
#   [PROGRAMS targets...]    what it runs; the target needs.NAME builds them
#   [LABELS labels...]       asan, tsan, cuda: it runs in the build of that kind too; the target
#                            LABEL_tests builds what all tests of a label run
#   [RANKS n]                at most, so that ctest -j gives a test of several ranks a small machine to itself
#   [TIMEOUT seconds] [ENVIRONMENT KEY=VALUE...])
#
# A test that exits with 77 is skipped.
#
# test_program(NAME sources...): a program of tests, linked with all of ours. A test's own code need not be
# fast: most of it runs once, and -O3 doubles its compilation.
function(test_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE wuneng_launch)
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
endfunction()

foreach(label asan tsan cuda)
  add_custom_target(${label}_tests)
endforeach()

function(wuneng_test name)
  cmake_parse_arguments(test "" "RANKS;TIMEOUT" "COMMAND;PROGRAMS;LABELS;ENVIRONMENT" ${ARGN})
  if(NOT test_TIMEOUT)
    set(test_TIMEOUT 300)
  endif()
  if(NOT test_RANKS)
    set(test_RANKS 1)
  endif()
  add_test(NAME ${name} COMMAND ${test_COMMAND})
  set_tests_properties(${name} PROPERTIES LABELS "${test_LABELS}" PROCESSORS ${test_RANKS}
                       TIMEOUT ${test_TIMEOUT} ENVIRONMENT "${test_ENVIRONMENT}" SKIP_RETURN_CODE 77)
  add_custom_target(needs.${name})
  if(test_PROGRAMS)
    add_dependencies(needs.${name} ${test_PROGRAMS})
  endif()
  foreach(label ${test_LABELS})
    add_dependencies(${label}_tests needs.${name})
  endforeach()
endfunction()

# read_environment(variable file): the KEY=VALUE lines of a file as a list.
function(read_environment variable file)
  file(STRINGS ${file} lines REGEX "^[A-Z]")
  set(${variable} ${lines} PARENT_SCOPE)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
endfunction()
