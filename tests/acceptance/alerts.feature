Feature: The desk is told what is wrong, once, and when it is over
  The settlements desk relies on scores. It wants to hear of trouble that lasts, from one place, without being told of
  the same thing twice, and to say who looks into it.

  Background:
    Given a desk whose rule "refusals" fires when a deployment refuses for 10 minutes
    And the rule is evaluated every 5 minutes

  Scenario: Trouble that lasts is told once, and so is its end
    When "fails" refuses from 9:00 to 9:30
    And it is 9:05
    Then the desk was told nothing
    When it is 9:20
    Then the desk was told that "fails" refuses
    When it is 9:50
    Then the desk was told that "fails" is well again
    And the desk was told 2 times in all

  Scenario: Trouble that passes by itself is not told
    When "fails" refuses from 9:00 to 9:05
    And it is 9:50
    Then the desk was told nothing
    And the ledger knows that "fails" was pending

  Scenario: Two deployments in trouble are one message
    When "fails" refuses from 9:00 to 10:00
    And "aging" refuses from 9:00 to 10:00
    And it is 9:20
    Then the desk was told that "aging" and "fails" refuse
    And the desk was told 1 time in all

  Scenario: Who takes it in hand is not told again, and nobody is woken
    Given the head of desk is told of what nobody has in hand for 30 minutes
    When "fails" refuses from 9:00 to 18:00
    And it is 9:20
    And Ann takes "fails" in hand
    And it is 17:00
    Then the desk was told 1 time in all
    And the head of desk was told nothing
    And the audit says that Ann took it in hand

  Scenario: What nobody takes in hand is told to the head of desk
    Given the head of desk is told of what nobody has in hand for 30 minutes
    When "fails" refuses from 9:00 to 18:00
    And it is 10:00
    Then the head of desk was told that "fails" refuses

  Scenario: Known trouble is silenced for a while, with a reason
    When "fails" refuses from 9:00 to 18:00
    And Ann silences "fails" for 2 hours because "the custodian resends"
    And it is 10:50
    Then the desk was told nothing
    When it is 11:10
    Then the desk was told that "fails" refuses

  Scenario: On a holiday nobody is told
    Given nobody is told on days on which settlement is closed
    And it is Thanksgiving
    When "fails" refuses from 9:00 to 18:00
    And it is 17:00
    Then the desk was told nothing

  Scenario: A rule that cannot be evaluated is itself a reason to be told
    When "fails" refuses from 9:00 to 18:00
    And it is 9:20
    And the view that the rule reads is renamed
    And it is 10:00
    Then the desk was told that the rule is broken, because "the query does not fit the views"
    And "fails" still fires
    When the view has its name again
    And it is 10:20
    Then the desk was told that the rule works again
    And "fails" still fires
